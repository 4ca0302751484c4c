// SPDX-License-Identifier: Apache-2.0
// What a data file is, told by its content and name, and its rows, whatever it is.
//
//   FileFormat, format_of   text, JSON lines, JSON, CSV, TSV
//   TableFile               a file opened as one of them: its columns and rows
//   data_files              the files that a name, a folder or a pattern stands for
#pragma once

#include <glob.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/core/utf8.hpp>
#include <srformer/io/csv.hpp>
#include <srformer/io/json_records.hpp>

namespace srformer {

enum class FileFormat { text, jsonl, json, csv, tsv };

inline constexpr std::array<std::pair<std::string_view, FileFormat>, 5> file_format_names{
    {{"text", FileFormat::text},
     {"jsonl", FileFormat::jsonl},
     {"json", FileFormat::json},
     {"csv", FileFormat::csv},
     {"tsv", FileFormat::tsv}}};

/// The format of a name in file_format_names, none for any other.
inline std::optional<FileFormat> format_from_name(std::string_view name) {
  for (const auto& [known, format] : file_format_names)
    if (known == name) return format;
  return std::nullopt;
}

/// Columns that hold a text and its summary in data sets that people share, the commonest first.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 14> known_column_pairs{
    {{"text", "summary"},
     {"document", "summary"},
     {"article", "highlights"},
     {"dialogue", "summary"},
     {"article", "summary"},
     {"article", "abstract"},
     {"description", "abstract"},
     {"body", "summary"},
     {"content", "summary"},
     {"report", "summary"},
     {"extract_text", "summary_text"},
     {"review_body", "review_title"},
     {"news_body", "news_title"},
     {"source", "target"}}};

namespace detail {

inline std::string lower_ascii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

inline std::array<std::string_view, known_column_pairs.size()> known_text_columns() {
  std::array<std::string_view, known_column_pairs.size()> names;
  std::ranges::transform(known_column_pairs, names.begin(), [](const auto& p) { return p.first; });
  return names;
}

/// The ending of a name in small letters without .gz: "jsonl" of "Train.JSONL.gz".
inline std::string data_extension(const std::filesystem::path& path) {
  std::string name = lower_ascii(path.filename().string());
  if (name.ends_with(".gz")) name.resize(name.size() - 3);
  const std::size_t dot = name.rfind('.');
  return dot == std::string::npos ? std::string() : name.substr(dot + 1);
}

/// Whether `text` begins as a JSON object does, {"name": ..., or as an array of such.
inline bool begins_as_json(std::string_view text) {
  std::size_t at = 0;
  const auto next = [&] {
    at = std::min(text.find_first_not_of(" \t\r\n", at), text.size());
    return at < text.size() ? text[at] : '\0';
  };
  if (next() == '[') ++at;
  if (next() != '{') return false;
  ++at;
  if (next() == '}') return true;
  if (next() != '"') return false;
  const std::size_t end = std::min(text.find('"', at + 1), text.size());
  at = std::min(end + 1, text.size());
  return next() == ':';
}

/// Whether JSON stands one object on each line; otherwise it is a document.
inline bool json_stands_in_lines(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return true;
  if (text[begin] != '{') return text[begin] != '[';
  const std::size_t end = std::min(text.find('\n', begin), text.size());
  const std::size_t second = text.find_first_not_of(" \t\r\n", end);
  if (second != std::string_view::npos && text[second] == '{') return true;
  const std::string_view line = text.substr(begin, end - begin);
  const std::string nowhere;
  JsonWalker walker(line, nowhere);
  try {
    if (second != std::string_view::npos) {
      walker.value();
      return true;
    }
    // One line: an object that holds a list of records is a document, and so are several objects.
    const auto [lists, is_record] = json_lists(walker, known_text_columns());
    walker.value();
    return walker.done() && (is_record || lists.empty());
  } catch (const io_error&) {  // an object over several lines, or half of one
    return second == std::string_view::npos;
  }
}

/// Whether the first line names columns, one of which is known to hold texts.
inline bool begins_with_header(std::string_view text, char delimiter) {
  std::string_view line = text.substr(0, std::min(text.find('\n'), text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  bool several = false, known = false;
  const auto names = known_text_columns();
  while (!line.empty()) {
    const std::size_t end = std::min(line.find(delimiter), line.size());
    std::string name = lower_ascii(line.substr(0, end));
    if (name.size() > 2 && name.front() == '"' && name.back() == '"')
      name = name.substr(1, name.size() - 2);
    const auto part_of_name = [](unsigned char c) {
      return std::isalnum(c) || c == '_' || c == '-';
    };
    if (name.empty() || !std::ranges::all_of(name, part_of_name)) return false;
    known = known || std::ranges::find(names, name) != names.end();
    several = several || end < line.size();
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return several && known;
}

/// Of `delimiters` the one that the first line has most often outside quotes.
inline char commonest_delimiter(std::string_view text, std::string_view delimiters) {
  std::array<std::size_t, 8> counts{};
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (c == '\n' && !quoted) break;
    if (const std::size_t i = delimiters.find(c); !quoted && i != std::string_view::npos)
      ++counts[i];
  }
  const auto most = std::max_element(counts.begin(), counts.begin() + delimiters.size());
  return delimiters[static_cast<std::size_t>(most - counts.begin())];
}

/// What files begin with that hold no text.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 12> foreign_files{
    {{{"PK\x03\x04", 4}, "a zip archive or an Excel workbook"},
     {{"PAR1", 4}, "a Parquet file"},
     {{"ARROW1", 6}, "an Arrow file"},
     {{"\xff\xff\xff\xff", 4}, "an Arrow stream"},
     {{"\x28\xb5\x2f\xfd", 4}, "compressed by zstd"},
     {{"BZh", 3}, "compressed by bzip2"},
     {{"\xfd\x37zXZ", 5}, "compressed by xz"},
     {{"%PDF-", 5}, "a PDF"},
     {{"SQLite format 3", 15}, "an SQLite database"},
     {{"\xff\xfe\0\0", 4}, "UTF-32"},
     {{"\0\0\xfe\xff", 4}, "UTF-32"},
     {{"version https://git-lfs", 23}, "a pointer of Git LFS and not the file itself"}}};

/// UTF-8 of UTF-16 behind its byte order mark, or none where an unpaired surrogate or half a character stands.
inline std::optional<std::string> from_utf16(std::string_view bytes, bool big_endian) {
  std::string text;
  const auto unit = [&](std::size_t i) {
    const auto a = static_cast<unsigned char>(bytes[i]),
               b = static_cast<unsigned char>(bytes[i + 1]);
    return big_endian ? static_cast<char32_t>(a << 8 | b) : static_cast<char32_t>(b << 8 | a);
  };
  if (bytes.size() % 2 != 0) return std::nullopt;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    char32_t c = unit(i);
    if (c >= 0xd800 && c < 0xe000) {
      const char32_t low = i + 3 < bytes.size() ? unit(i + 2) : 0;
      if (c >= 0xdc00 || low < 0xdc00 || low >= 0xe000) return std::nullopt;
      c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
      i += 2;
    }
    const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
    if (c < 0x80) {
      put(c);
      continue;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    constexpr char32_t leads[] = {0xc0, 0xe0, 0xf0};
    put(leads[more - 1] | c >> 6 * more);
    for (int k = more - 1; k >= 0; --k) put(0x80 | (c >> 6 * k & 0x3f));
  }
  return text;
}

}  // namespace detail

/// What a file of this name and content is. JSON is known by its content, and whether it stands in lines or is one
/// document too; .csv, .tsv and .tab by the name; anything else is CSV or TSV when its first line names columns one of
/// which is in known_column_pairs, and text if not. Throws io_error for a table by its name that holds JSON.
inline FileFormat format_of(const std::filesystem::path& path, std::string_view content) {
  const std::string extension = detail::data_extension(path);
  const bool json_by_name = extension == "json" || extension == "jsonl" || extension == "ndjson";
  const bool table_by_name = extension == "csv" || extension == "tsv" || extension == "tab";
  const bool json = detail::begins_as_json(content);
  if (table_by_name && json)
    throw io_error(path.string() + ": is named ." + extension +
                   " but holds JSON; rename it, or say which of them it is (input_format)");
  if (table_by_name) return extension == "csv" ? FileFormat::csv : FileFormat::tsv;
  if (json_by_name || json)
    return detail::json_stands_in_lines(content) ? FileFormat::jsonl : FileFormat::json;
  if (detail::begins_with_header(content, ',') || detail::begins_with_header(content, ';'))
    return FileFormat::csv;
  if (detail::begins_with_header(content, '\t')) return FileFormat::tsv;
  return FileFormat::text;
}

/// Makes what gzip compressed whole again: srformer::gunzip of io/gzip.hpp, where zlib is there.
using Decompress = std::string (*)(std::span<const std::byte>, const std::string& path);

struct TableOptions {
  std::optional<FileFormat> format{};  ///< none: as format_of says
  Decompress decompress = nullptr;     ///< none: compressed files are refused
  std::string shown{};                 ///< how errors call the file, if not by its path
};

/// A file of rows. UTF-8 with or without byte order mark, or UTF-16 with one; compressed by gzip or not. A regular file
/// is mapped, one that was compressed or in UTF-16 is held in memory whole.
class TableFile {
 public:
  /// Throws io_error for a file that cannot be read, holds no text, or is compressed where `decompress` is not given.
  explicit TableFile(const std::filesystem::path& path, TableOptions options = {})
      : shown_(options.shown.empty() ? path.string() : options.shown), file_(path) {
    text_ = file_.text();
    if (text_.starts_with("\x1f\x8b")) {
      if (options.decompress == nullptr)
        throw io_error(shown_ +
                       ": is compressed by gzip, which is not read without zlib; gunzip it");
      own(options.decompress(std::as_bytes(std::span(text_)), shown_), "gzip");
    }
    refuse_foreign();
    decode_utf16();
    if (text_.starts_with("\xef\xbb\xbf")) start_ = 3;
    format_ = options.format ? *options.format
                             : format_of(options.shown.empty() ? path : "", text_.substr(start_));
    if (format_ == FileFormat::csv) delimiter_ = detail::commonest_delimiter(text(), ",;\t");
    if (format_ == FileFormat::tsv) delimiter_ = '\t';
    if (format_ != FileFormat::json && format_ != FileFormat::jsonl) check_utf8();
  }

  FileFormat format() const { return format_; }
  bool has_columns() const { return format_ != FileFormat::text; }
  const std::string& shown() const { return shown_; }
  /// All of the file in UTF-8, without its byte order mark.
  std::string_view text() const { return text_.substr(start_); }
  /// "JSON lines (gzip)", for people.
  std::string description() const {
    std::string what = format_ == FileFormat::text    ? "text"
                       : format_ == FileFormat::jsonl ? "JSON lines"
                       : format_ == FileFormat::json  ? "JSON"
                       : format_ == FileFormat::tsv   ? "TSV"
                                                      : "CSV";
    std::string how = encoding_;
    if (format_ == FileFormat::csv && delimiter_ != ',')
      how += std::string(how.empty() ? "" : ", ") + (delimiter_ == ';' ? "semicolons" : "tabs");
    return how.empty() ? what : what + " (" + how + ")";
  }

  /// The names of the columns: those of the header, or of the first 32 records of JSON; none of text.
  std::vector<std::string> columns() const {
    std::vector<std::string> names;
    if (delimiter_ != '\0') {
      CsvReader reader(text(), delimiter_, shown_);
      reader.next(names);
      for (std::string& name : names) name = trimmed(name);
    } else if (has_columns()) {
      std::size_t left = 32;
      std::set<std::string> known;
      each_json([&](std::string_view record, std::size_t, std::size_t) {
        for (std::string& key : json_keys(record))
          if (known.insert(key).second) names.push_back(std::move(key));
        return --left > 0;
      });
    }
    return names;
  }

  /// Calls row(line, cells) for every row with what it holds in `columns`, or fault(line, reason) for one that is broken,
  /// in the order of the file; `line`, from 1, is where the row begins. A row of text has one cell whatever `columns`
  /// are. The cells may be moved from. Returns in how many rows unpaired surrogates were read as U+FFFD. Throws io_error
  /// where no next row can be found, and for a header without one of the columns or with one of them twice.
  template <class Row, class Fault>
  std::size_t rows(std::span<const std::string> columns, Row row, Fault fault) const {
    if (delimiter_ != '\0') {
      csv_rows(columns, row, fault);
      return 0;
    }
    if (format_ == FileFormat::text) {
      text_rows(row);
      return 0;
    }
    std::vector<Cell> cells(columns.size());
    std::size_t replaced = 0;
    each_json([&](std::string_view record, std::size_t line, std::size_t byte) {
      const JsonRecordResult result = json_cells(record, byte + start_, columns, cells);
      replaced += result.surrogates > 0 ? 1 : 0;
      if (result.fault.empty()) {
        row(line, std::span(cells));
      } else {
        fault(line, result.fault);
      }
      return true;
    });
    return replaced;
  }

 private:
  void own(std::string bytes, const char* how) {
    owned_ = std::move(bytes);
    text_ = owned_;
    encoding_ += (encoding_.empty() ? "" : ", ") + std::string(how);
  }

  void refuse_foreign() const {
    for (const auto& [magic, what] : detail::foreign_files)
      if (text_.starts_with(magic))
        throw io_error(shown_ + ": is " + std::string(what) +
                       "; give text, JSON lines, JSON, CSV or TSV");
  }

  void decode_utf16() {
    const auto is = [&](std::size_t i, bool zero) { return (text_[i] == '\0') == zero; };
    const bool little = text_.starts_with("\xff\xfe"), big = text_.starts_with("\xfe\xff");
    if (!little && !big) {
      if (text_.size() >= 4 && text_.size() % 2 == 0 && is(0, !is(1, true)) && is(2, is(0, true)) &&
          is(3, is(1, true)))
        throw io_error(shown_ +
                       ": looks like UTF-16 without a byte order mark; convert it to UTF-8");
      return;
    }
    auto text = detail::from_utf16(text_.substr(2), big);
    if (!text) throw io_error(shown_ + ": is not valid UTF-16; convert it to UTF-8");
    own(*std::move(text), "UTF-16");
  }

  void check_utf8() const {
    const std::size_t valid = detail::valid_utf8_prefix(text_);
    if (valid == text_.size()) return;
    const auto line = 1 + std::count(text_.begin(), text_.begin() + std::ptrdiff_t(valid), '\n');
    throw io_error(shown_ + ":" + std::to_string(line) + ": byte " + std::to_string(valid) +
                   ": is not UTF-8; convert the file, for example with iconv -f LATIN1 -t UTF-8");
  }

  template <class F>
  void each_json(F f) const {
    const auto known = detail::known_text_columns();
    if (format_ == FileFormat::jsonl) {
      for_each_json_line(text(), f);
    } else {
      for_each_json_record(text(), shown_, known, f);
    }
  }

  template <class Row>
  void text_rows(Row row) const {
    Cell cell{Cell::Kind::text, {}, "string"};
    const std::string_view all = text();
    std::size_t number = 1;
    for (std::size_t begin = 0; begin < all.size(); ++number) {
      const std::size_t end = std::min(all.find('\n', begin), all.size());
      std::string_view line = all.substr(begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      cell.text = line;
      row(number, std::span(&cell, 1));
      begin = end + 1;
    }
  }

  template <class Row, class Fault>
  void csv_rows(std::span<const std::string> columns, Row row, Fault fault) const {
    CsvReader reader(text(), delimiter_, shown_);
    std::vector<std::string> fields;
    if (!reader.next(fields)) return;
    const std::size_t width = fields.size();
    std::vector<std::size_t> where;
    for (const std::string& column : columns) {
      const auto is_it = [&](const std::string& field) { return trimmed(field) == column; };
      const auto found = std::ranges::find_if(fields, is_it);
      if (std::ranges::count_if(fields, is_it) > 1)
        throw io_error(shown_ + ":1: has two columns \"" + column + "\"; rename one");
      where.push_back(static_cast<std::size_t>(found - fields.begin()));
    }
    std::vector<Cell> cells(columns.size());
    while (reader.next(fields)) {
      if (fields.size() != width) {
        fault(reader.line(), "has " + std::to_string(fields.size()) +
                                 (fields.size() == 1 ? " field" : " fields") +
                                 " where the header has " + std::to_string(width));
        continue;
      }
      for (std::size_t i = 0; i < cells.size(); ++i) {
        cells[i].kind = where[i] < width ? Cell::Kind::text : Cell::Kind::absent;
        if (where[i] < width) cells[i].text = std::move(fields[where[i]]);
      }
      row(reader.line(), std::span(cells));
    }
  }

  static std::string trimmed(const std::string& name) {
    const std::size_t first = name.find_first_not_of(" \t");
    if (first == std::string::npos) return "";
    return name.substr(first, name.find_last_not_of(" \t") - first + 1);
  }

  std::string shown_, owned_, encoding_;
  MappedFile file_;
  std::string_view text_;
  std::size_t start_ = 0;  ///< behind the byte order mark
  FileFormat format_ = FileFormat::text;
  char delimiter_ = '\0';  ///< none: not CSV or TSV
};

/// The files that `name` stands for: itself; those of a folder whose names end as data do (.jsonl, .ndjson, .json, .csv,
/// .tsv, .tab, .txt, also with .gz), hidden ones aside; or what a pattern with *, ? or [...] matches, all by name. Throws
/// io_error when a folder or a pattern gives none.
inline std::vector<std::filesystem::path> data_files(const std::string& name) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  if (std::error_code ignored; fs::is_directory(name, ignored)) {
    for (const auto& entry : fs::directory_iterator(name)) {
      const std::string extension = detail::data_extension(entry.path());
      const bool data =
          std::ranges::any_of(std::array{"jsonl", "ndjson", "json", "csv", "tsv", "tab", "txt"},
                              [&](const char* known) { return extension == known; });
      if (data && entry.is_regular_file() && !entry.path().filename().string().starts_with('.'))
        files.push_back(entry.path());
    }
    if (files.empty())
      throw io_error(
          name +
          ": is a folder without data files; give one with files .jsonl, .json, .csv, .tsv "
          "or .txt, or name the files");
  } else if (name.find_first_of("*?[") != std::string::npos && !fs::exists(name, ignored)) {
    glob_t found{};
    if (::glob(name.c_str(), 0, nullptr, &found) == 0)
      for (std::size_t i = 0; i < found.gl_pathc; ++i)
        if (!fs::is_directory(found.gl_pathv[i])) files.emplace_back(found.gl_pathv[i]);
    ::globfree(&found);
    if (files.empty()) throw io_error(name + ": matches no file; check the folder and the pattern");
  } else {
    files.emplace_back(name);
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace srformer
