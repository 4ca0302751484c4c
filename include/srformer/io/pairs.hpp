// SPDX-License-Identifier: Apache-2.0
// Texts and their summaries from data files of any format that table.hpp reads: which columns they are, which rows
// cannot be used, and what was left out, told together.
//
//   read_pairs      a text and its summary from every row; for_each_pair, one after the other
//   for_each_text   texts alone, a text file's lines, paragraphs or whole
//   read_column     one column, with the place of each row
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/io/table.hpp>

namespace srformer {

struct Pair {
  std::string text;
  std::string summary;
};

/// A text and where it stands, as "test.jsonl:7".
struct PlacedText {
  std::string place;
  std::string text;
};

/// What is asked of the column of summaries.
enum class SummaryColumn {
  required,      ///< a summary in every row
  may_be_empty,  ///< the column, but empty or null in some rows
  if_there,      ///< the column where the file has one
  none
};

struct ReadOptions {
  std::optional<FileFormat> format{};           ///< none: told by content and name
  std::string text_column{}, summary_column{};  ///< empty: found by known_column_pairs
  SummaryColumn summary = SummaryColumn::required;
  bool drop_empty = false;  ///< leave out rows without what is asked for, instead of refusing them
  Decompress decompress = nullptr;  ///< for .gz
};

/// What was read, and sentences about it for people: the format, columns and rows of the files, and what was left out.
template <class T>
struct DataRows {
  std::vector<T> rows;
  std::vector<std::string> notices;
};

namespace detail {

inline bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

/// Names in quotes on one line, the first ten of them in 200 bytes or so, and 40 bytes of each.
inline std::string quoted_names(std::span<const std::string> names) {
  std::string list;
  std::size_t shown = 0;
  for (; shown < names.size() && shown < 10 && list.size() < 200; ++shown)
    list += (list.empty() ? "\"" : ", \"") + one_line(names[shown], 40) + "\"";
  if (names.size() > shown) list += " and " + std::to_string(names.size() - shown) + " more";
  return list;
}

/// "1 row", "3 rows".
inline std::string counted(std::size_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// Numbers of lines, the first few of them, and how many there are.
class LineList {
 public:
  void add(std::size_t line) {
    if (first_.size() < 5) first_.push_back(line);
    ++count_;
  }
  std::size_t count() const { return count_; }
  /// "line 5", "lines 5, 6, ...".
  std::string text() const {
    std::string list = first_.size() == 1 ? "line " : "lines ";
    for (std::size_t i = 0; i < first_.size(); ++i)
      list += (i > 0 ? ", " : "") + std::to_string(first_[i]);
    return count_ > first_.size() ? list + ", ..." : list;
  }

 private:
  std::vector<std::size_t> first_;
  std::size_t count_ = 0;
};

/// The rows of one file that cannot be used.
class RowFaults {
 public:
  enum class Kind { broken, type, empty };

  explicit RowFaults(const TableFile& file) : file_(file) {}

  void add(Kind kind, std::size_t line, std::string reason) {
    ++kinds_[static_cast<std::size_t>(kind)];
    if (first_.size() < 4) first_.push_back({kind, line, std::move(reason)});
    ++count_;
  }

  /// Throws io_error when there was one; `rows` is how many rows there are in all.
  void check(std::size_t rows) const {
    if (count_ == 0) return;
    const Fault& first = first_.front();
    const std::string place = file_.shown() + ":" + std::to_string(first.line) + ": ";
    if (count_ == 1) throw io_error(place + first.reason + "; " + advice(first.kind));
    const std::string name = std::filesystem::path(file_.shown()).filename().string();
    const std::string list = shown_faults(name);
    const bool droppable = kinds_[0] + kinds_[1] == 0;
    throw io_error(
        file_.shown() + ": " + std::to_string(count_) + " of " + counted(rows, "row") +
        " cannot be used: " + list + "; " +
        (droppable ? "fill them, or leave out such rows (drop_empty)" : "correct or remove them"));
  }

 private:
  struct Fault {
    Kind kind;
    std::size_t line;
    std::string reason;
  };

  /// The first faults, as many as a message has room for.
  std::string shown_faults(const std::string& name) const {
    constexpr std::size_t room = 300;
    std::string list;
    std::size_t shown = 0;
    for (const Fault& fault : first_) {
      const std::string next =
          name + ":" + std::to_string(fault.line) + " " + shortened(fault.reason);
      if (shown > 0 && list.size() + next.size() > room) break;
      list += (shown++ == 0 ? "" : ", ") + next;
    }
    return shown < count_ ? list + ", ..." : list;
  }

  static std::string advice(Kind kind) {
    switch (kind) {
      case Kind::broken:
        return "correct it there or fetch the file again";
      case Kind::type:
        return "correct the line";
      case Kind::empty:
        break;
    }
    return "fill it, or leave out such rows (drop_empty)";
  }
  static std::string shortened(const std::string& reason) {
    return reason.size() <= 60 ? reason : reason.substr(0, reason.find_first_of(":;", 30));
  }

  const TableFile& file_;
  std::vector<Fault> first_;
  std::array<std::size_t, 3> kinds_{};
  std::size_t count_ = 0;
};

/// One column that is read.
struct WantedColumn {
  std::string name;
  bool may_be_empty = false;
};

/// What a file came to.
struct FileRows {
  std::size_t rows = 0, blank_lines_at_end = 0, surrogates = 0;
  LineList dropped;
};

/// Judges the cells of rows, and hands on those that can be used.
template <class F>
class RowReader {
 public:
  RowReader(const TableFile& file, std::span<const WantedColumn> columns, bool drop_empty, F use)
      : file_(file), columns_(columns), drop_empty_(drop_empty), use_(use), faults_(file) {}

  FileRows read() {
    std::vector<std::string> names;
    for (const WantedColumn& column : columns_) names.push_back(column.name);
    result_.surrogates = file_.rows(
        names, [this](std::size_t line, std::span<Cell> cells) { row(line, cells); },
        [this](std::size_t line, const std::string& reason) {
          ++result_.rows;
          faults_.add(RowFaults::Kind::broken, line, reason);
        });
    result_.blank_lines_at_end = blank_.size();
    check_columns();
    faults_.check(result_.rows);
    return std::move(result_);
  }

 private:
  void row(std::size_t line, std::span<Cell> cells) {
    const bool holds_blanks = !file_.has_columns() && !columns_.front().may_be_empty;
    if (holds_blanks && is_blank(cells.front().text)) {
      blank_.push_back(line);  // at the end of the file they are passed over
      return;
    }
    for (const std::size_t before : blank_) {
      ++result_.rows, ++well_formed_;
      empty(before, "is empty");
    }
    blank_.clear();
    ++result_.rows;
    if (++well_formed_ == 1) first_line_ = line;
    for (std::size_t i = 0; i < cells.size(); ++i)
      if (cells[i].kind == Cell::Kind::absent) ++absent_[i];
    for (std::size_t i = 0; i < cells.size(); ++i)
      if (!judge(line, cells[i], columns_[i])) return;
    use_(line, cells);
  }

  /// Whether the row can be used, as far as this cell goes.
  bool judge(std::size_t line, Cell& cell, const WantedColumn& column) {
    const auto named = [&] { return "column \"" + column.name + "\" is "; };
    if (cell.kind == Cell::Kind::text && (column.may_be_empty || !is_blank(cell.text))) return true;
    if (cell.kind == Cell::Kind::other) {
      faults_.add(RowFaults::Kind::type, line,
                  named() + std::string(cell.type) + ", expected a string");
      return false;
    }
    if (cell.kind != Cell::Kind::text && column.may_be_empty) {
      cell.text.clear();
      return true;
    }
    if (cell.kind == Cell::Kind::text) return empty(line, named() + "empty");
    if (cell.kind == Cell::Kind::null) return empty(line, named() + "null, expected a string");
    return empty(line, "has no column \"" + column.name + "\"");
  }

  bool empty(std::size_t line, std::string reason) {
    if (drop_empty_) {
      result_.dropped.add(line);
    } else {
      faults_.add(RowFaults::Kind::empty, line, std::move(reason));
    }
    return false;
  }

  /// A column that no row has is a wrong name, and not what drop_empty is for.
  void check_columns() const {
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (well_formed_ == 0 || absent_[i] < well_formed_) continue;
      const std::vector<std::string> names = file_.columns();
      throw io_error(file_.shown() + ":" + std::to_string(first_line_) + ": has no column \"" +
                     columns_[i].name + "\" but " +
                     (names.empty() ? "no column at all" : quoted_names(names)) +
                     "; name the columns to read or correct the line");
    }
  }

  const TableFile& file_;
  std::span<const WantedColumn> columns_;
  bool drop_empty_;
  F use_;
  RowFaults faults_;
  FileRows result_;
  std::vector<std::size_t> blank_;
  std::array<std::size_t, 2> absent_{};  ///< rows without the column
  std::size_t well_formed_ = 0, first_line_ = 0;
};

/// Sentences about the files of one set; those that follow one another and are alike share one.
class DataNotices {
 public:
  void add(const TableFile& file, std::span<const WantedColumn> columns, const FileRows& rows) {
    std::vector<std::string> names;
    if (file.has_columns())
      for (const WantedColumn& column : columns) names.push_back(column.name);
    const std::string kind = file.description() +
                             (names.empty()       ? ""
                              : names.size() == 1 ? ", column "
                                                  : ", columns ") +
                             quoted_names(names);
    if (!kinds_.empty() && kinds_.back().kind == kind) {
      ++kinds_.back().files, kinds_.back().rows += rows.rows;
    } else {
      kinds_.push_back({file.shown(), kind, file.has_columns() ? "row" : "line", 1, rows.rows});
    }
    if (rows.dropped.count() > 0)
      others_.push_back(file.shown() + ": " + std::to_string(rows.dropped.count()) + " of " +
                        counted(rows.rows, "row") + " left out for want of " +
                        (names.size() == 2 ? "a text or a summary" : "a text") + ": " +
                        rows.dropped.text());
    if (rows.blank_lines_at_end > 0)
      others_.push_back(file.shown() + ": " + counted(rows.blank_lines_at_end, "blank line") +
                        " at the end passed over");
    if (rows.surrogates > 0)
      others_.push_back(file.shown() + ": unpaired surrogates read as U+FFFD in " +
                        counted(rows.surrogates, "row"));
  }

  std::vector<std::string> take() {
    std::vector<std::string> all;
    for (const Kind& k : kinds_)
      all.push_back(k.first + (k.files > 1 ? " and " + counted(k.files - 1, "more file") : "") +
                    ": " + k.kind + ", " + counted(k.rows, k.what));
    if (others_.size() > 5) {
      const std::size_t more = others_.size() - 5;
      others_.resize(5);
      others_.push_back("and " + counted(more, "more notice") + " of this kind");
    }
    all.insert(all.end(), others_.begin(), others_.end());
    return all;
  }

 private:
  struct Kind {
    std::string first, kind, what;
    std::size_t files, rows;
  };
  std::vector<Kind> kinds_;
  std::vector<std::string> others_;
};

inline bool has_name(std::span<const std::string> names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

/// The columns of text and summary of a file, the first of the known pairs that fits what is asked for and what is
/// there; `text` and `summary` where none does, so that a row is found to lack them.
inline std::vector<WantedColumn> pair_columns(const TableFile& file, const ReadOptions& options) {
  const std::vector<std::string> names = file.columns();
  std::string text = options.text_column, summary = options.summary_column;
  const bool wants_summary = options.summary != SummaryColumn::none;
  const auto fits = [&](std::string_view asked, std::string_view known, bool there) {
    return asked.empty() ? !there || has_name(names, known) : asked == known;
  };
  for (const auto& [known_text, known_summary] : known_column_pairs) {
    const bool found = fits(options.text_column, known_text, true) &&
                       fits(options.summary_column, known_summary, wants_summary);
    if (!found) continue;
    text = known_text, summary = known_summary;
    break;
  }
  for (const auto& [known_text, known_summary] : known_column_pairs) {  // one of them by itself
    if (text.empty() && has_name(names, known_text)) text = known_text;
    if (summary.empty() && has_name(names, known_summary)) summary = known_summary;
  }
  std::vector<WantedColumn> columns{{text.empty() ? "text" : text, false}};
  const bool optional = options.summary == SummaryColumn::if_there;
  if (wants_summary && !(optional && summary.empty()))
    columns.push_back({summary.empty() ? "summary" : summary,
                       options.summary == SummaryColumn::may_be_empty || optional});
  return columns;
}

/// Throws io_error for a text file of which more is asked than its lines.
inline void check_text_file(const TableFile& file, std::string_view column, bool wants_summary) {
  if (file.has_columns()) return;
  if (wants_summary)
    throw io_error(
        file.shown() +
        ": is text, one a line, which has no summaries; give JSON lines, JSON, CSV or TSV");
  if (!column.empty())
    throw io_error(file.shown() + ": is text, one a line, which has no column \"" +
                   std::string(column) + "\"; leave the column out, or say which format it is");
}

/// Calls f(file) for every file that `names` stand for.
template <class F>
void for_each_table(std::span<const std::string> names, const ReadOptions& options, F f) {
  for (const std::string& name : names) {
    if (name == "-") {
      f(TableFile("/dev/stdin", {options.format, options.decompress, "standard input"}));
      continue;
    }
    for (const std::filesystem::path& path : data_files(name))
      f(TableFile(path, {options.format, options.decompress, {}}));
  }
}

inline void check_any(std::span<const std::string> names, std::size_t used, std::size_t read,
                      const char* what) {
  if (used > 0) return;
  const std::string shown = names.empty()          ? "no file"
                            : names.front() == "-" ? "standard input"
                                                   : names.front();
  throw io_error(shown + ": holds no " + what +
                 (read > 0 ? ", all " + counted(read, "row") + " being left out" : std::string()) +
                 "; give a file with at least one row");
}

}  // namespace detail

/// Calls use(pair) for every pair of all files that `names` stand for (data_files; "-" is standard input), in their
/// order, as they are read. Returns the notices. Throws io_error with file and line for what cannot be used, all rows of
/// a file together after those that can, and when there is no pair.
template <class Use>
std::vector<std::string> for_each_pair(std::span<const std::string> names,
                                       const ReadOptions& options, Use use) {
  detail::DataNotices notices;
  std::size_t rows = 0, used = 0;
  const bool needs_columns =
      options.summary == SummaryColumn::required || options.summary == SummaryColumn::may_be_empty;
  detail::for_each_table(names, options, [&](const TableFile& file) {
    if (options.summary != SummaryColumn::if_there)
      detail::check_text_file(file, options.text_column, needs_columns);
    std::vector<detail::WantedColumn> columns{{"text", false}};
    if (file.has_columns()) columns = detail::pair_columns(file, options);
    const auto take = [&](std::size_t, std::span<Cell> cells) {
      ++used;
      use(Pair{std::move(cells[0].text), cells.size() > 1 ? std::move(cells[1].text) : ""});
    };
    const auto read = detail::RowReader(file, columns, options.drop_empty, take).read();
    rows += read.rows;
    notices.add(file, columns, read);
  });
  detail::check_any(names, used, rows, "examples");
  return notices.take();
}

/// All pairs at once. Throws as for_each_pair.
inline DataRows<Pair> read_pairs(std::span<const std::string> names, const ReadOptions& options) {
  DataRows<Pair> result;
  result.notices =
      for_each_pair(names, options, [&](Pair&& pair) { result.rows.push_back(std::move(pair)); });
  return result;
}

/// What of a text file is a text.
enum class TextUnit { line, paragraph, document };

namespace detail {

/// Calls f(paragraph) for the runs of lines of `text` that are not blank.
template <class F>
void for_each_paragraph(std::string_view text, F f) {
  std::size_t first = 0, end = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t next = std::min(text.find('\n', begin), text.size());
    if (!is_blank(text.substr(begin, next - begin))) {
      if (first == end) first = begin;
      end = next;
    } else if (first != end) {
      f(text.substr(first, end - first));
      first = end = 0;
    }
    begin = next + 1;
  }
  if (first != end) f(text.substr(first, end - first));
}

}  // namespace detail

/// Calls use(std::string_view) for every text of all files, in their order, as they are read: of text files their lines,
/// paragraphs, which blank lines divide, or all of each; of others the column of texts. Returns the notices. Throws as
/// for_each_pair, and for a file with columns where paragraphs or documents are asked for.
template <class Use>
std::vector<std::string> for_each_text(std::span<const std::string> names,
                                       const ReadOptions& options, TextUnit unit, Use use) {
  if (unit == TextUnit::line) {
    ReadOptions alone = options;
    alone.summary = SummaryColumn::none;
    return for_each_pair(names, alone, [&](const Pair& pair) { use(std::string_view(pair.text)); });
  }
  std::vector<std::string> notices;
  std::size_t files = 0, texts = 0;
  detail::for_each_table(names, options, [&](const TableFile& file) {
    detail::check_text_file(file, options.text_column, false);
    if (file.has_columns())
      throw io_error(file.shown() + ": is " + file.description() +
                     ", whose rows are the texts; paragraphs and documents are read of text files");
    const auto take = [&](std::string_view text) { use(text), ++texts; };
    ++files;
    if (unit == TextUnit::paragraph) return detail::for_each_paragraph(file.text(), take);
    if (!detail::is_blank(file.text())) return take(file.text());
    if (!options.drop_empty)
      throw io_error(file.shown() + ": is empty; remove it, or leave out such files (drop_empty)");
    notices.push_back(file.shown() + ": is empty and left out");
  });
  detail::check_any(names, texts, 0, "text");
  if (notices.size() > 5) {
    notices[5] = "and " + detail::counted(notices.size() - 5, "more file") + " of this kind";
    notices.resize(6);
  }
  notices.insert(notices.begin(),
                 detail::counted(files, "text file") + ", " +
                     detail::counted(texts, unit == TextUnit::paragraph ? "paragraph" : "text"));
  return notices;
}

/// A column by itself.
struct ColumnOptions {
  std::string name{};                     ///< empty: the first of `known` that a file has
  std::vector<std::string_view> known{};  ///< at least one
  bool sole = false;                      ///< refuse a file that has several of `known`
  bool keep_empty = false;                ///< keep rows without a text, as empty ones
};

namespace detail {

/// The column's name in a file.
inline std::string column_name(const TableFile& file, const ColumnOptions& column) {
  if (!column.name.empty() || !file.has_columns()) return column.name;
  std::vector<std::string> found;
  const std::vector<std::string> there = file.columns();
  for (const std::string_view name : column.known)
    if (has_name(there, name)) found.emplace_back(name);
  if (column.sole && found.size() > 1)
    throw io_error(file.shown() + ": has the columns " + quoted_names(found) +
                   "; name the one to read");
  return found.empty() ? std::string(column.known.front()) : found.front();
}

}  // namespace detail

/// The texts of one column, of all files that `names` stand for. Throws as read_pairs.
inline DataRows<PlacedText> read_column(std::span<const std::string> names,
                                        const ColumnOptions& column, const ReadOptions& options) {
  DataRows<PlacedText> result;
  detail::DataNotices notices;
  std::size_t rows = 0;
  detail::for_each_table(names, options, [&](const TableFile& file) {
    detail::check_text_file(file, column.name, false);
    const std::array columns{
        detail::WantedColumn{detail::column_name(file, column), column.keep_empty}};
    const auto use = [&](std::size_t line, std::span<Cell> cells) {
      result.rows.push_back(
          {file.shown() + ":" + std::to_string(line), std::move(cells.front().text)});
    };
    const auto read = detail::RowReader(file, std::span(columns), options.drop_empty, use).read();
    rows += read.rows;
    notices.add(file, columns, read);
  });
  detail::check_any(names, result.rows.size(), rows, "text");
  result.notices = notices.take();
  return result;
}

/// The names that known_column_pairs has for texts.
inline std::vector<std::string_view> known_text_names() {
  const auto names = detail::known_text_columns();
  return {names.begin(), names.end()};
}

}  // namespace srformer
