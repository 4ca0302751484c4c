// SPDX-License-Identifier: Apache-2.0
// Records of JSON text: where each begins and ends in lines or in a document, and the cells of one.
//
//   Cell                          what a record holds in one column
//   json_cells, json_keys         cells of a record, names of all its columns
//   for_each_json_line            the records of JSON lines
//   for_each_json_record          those of an array, of {"data": [...]}, or of objects one after another
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/io/file.hpp>

namespace srformer {

/// What a row of a table holds in one column.
struct Cell {
  enum class Kind { absent, null, text, other };
  Kind kind = Kind::absent;
  std::string text;       ///< of Kind::text
  std::string_view type;  ///< of Kind::other: number, boolean, array or object
};

namespace detail {

/// What nlohmann's parser tells of one value: the cells of its columns, or the names of all.
class JsonRecordHandler {
 public:
  JsonRecordHandler(std::span<const std::string> columns, std::span<Cell> cells,
                    std::vector<std::string>* keys)
      : columns_(columns), cells_(cells), keys_(keys) {}

  bool null() { return put(Cell::Kind::null, "null"); }
  bool boolean(bool) { return put(Cell::Kind::other, "boolean"); }
  bool number_integer(std::int64_t) { return put(Cell::Kind::other, "number"); }
  bool number_unsigned(std::uint64_t) { return put(Cell::Kind::other, "number"); }
  bool number_float(double, const std::string&) { return put(Cell::Kind::other, "number"); }
  bool string(std::string& value) {
    put(Cell::Kind::text, "string");
    if (depth_ == 1 && cell_ != nullptr) cell_->text.assign(value);  // no longer than it must be
    return true;
  }
  bool binary(nlohmann::json::binary_t&) { return true; }
  bool start_object(std::size_t) { return open("object"); }
  bool start_array(std::size_t) { return open("array"); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (depth_ != 1) return true;
    const auto found = std::ranges::find(columns_, name);
    cell_ = found == columns_.end() ? nullptr : &cells_[std::size_t(found - columns_.begin())];
    constexpr std::size_t most = 1000;  // names are looked for one by one
    if (keys_ != nullptr && keys_->size() < most && std::ranges::find(*keys_, name) == keys_->end())
      keys_->push_back(std::move(name));
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const nlohmann::json::exception& error) {
    error_byte = byte > 0 ? byte - 1 : 0;
    error_reason = json_reason(error);
    return false;
  }

  std::string_view top;  ///< the type of the whole value
  std::size_t error_byte = 0;
  std::string error_reason;

 private:
  bool put(Cell::Kind kind, std::string_view type) {
    if (depth_ == 0) top = type;
    if (depth_ == 1 && cell_ != nullptr) cell_->kind = kind, cell_->type = type;
    return true;
  }
  bool open(std::string_view type) {
    put(Cell::Kind::other, type);
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }

  std::span<const std::string> columns_;
  std::span<Cell> cells_;
  std::vector<std::string>* keys_;
  Cell* cell_ = nullptr;  ///< of the last key on the first level
  std::size_t depth_ = 0;
};

/// Byte behind the JSON number that begins at `at`, or `at` where none does.
inline std::size_t json_number_end(std::string_view text, std::size_t at) {
  std::size_t i = at;
  const auto digits = [&] {
    const std::size_t first = i;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
    return i > first;
  };
  const auto is = [&](std::string_view any) {
    return i < text.size() && any.find(text[i]) != std::string_view::npos;
  };
  if (is("-")) ++i;
  if (is("0")) {
    ++i;
  } else if (!digits()) {
    return at;
  }
  if (std::size_t end = i; is(".")) {
    ++i;
    if (!digits()) return end;
  }
  if (std::size_t end = i; is("eE")) {
    ++i;
    if (is("+-")) ++i;
    if (!digits()) return end;
  }
  return i;
}

/// `text`, byte for byte as long, in which a number of any size is 0, NaN is an empty string, Infinity and -Infinity
/// are 0, and an escape of an unpaired surrogate is that of U+FFFD: what Python's json writes and reads, and nlohmann's
/// parser refuses. Adds to `surrogates` how many escapes were replaced.
inline std::string tolerant_json(std::string_view text, std::size_t& surrogates) {
  std::string result(text);
  const auto put = [&](std::size_t at, std::size_t size, std::string_view with) {
    std::fill_n(result.begin() + std::ptrdiff_t(at), size, ' ');
    std::ranges::copy(with, result.begin() + std::ptrdiff_t(at));
  };
  const auto surrogate = [&](std::size_t at, char low,
                             char high) {  // \ud8.. to \udb.., \udc.. to \udf..
    if (text.substr(at, 2) != "\\u" || at + 6 > text.size()) return false;
    const char third = char(std::tolower(text[at + 3]));
    return std::tolower(text[at + 2]) == 'd' && third >= low && third <= high;
  };
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted) {
      if (text[i] == '"') quoted = false;
      if (text[i] != '\\') continue;
      const bool leads = surrogate(i, '8', 'b');
      if (leads && surrogate(i + 6, 'c', 'f')) {
        i += 11;
      } else if (leads || surrogate(i, 'c', 'f')) {
        put(i, 6, "\\ufffd");
        ++surrogates, i += 5;
      } else {
        ++i;
      }
    } else if (text[i] == '"') {
      quoted = true;
    } else if (text.substr(i, 3) == "NaN") {
      put(i, 3, "\"\"");
      i += 2;
    } else if (const std::size_t sign = text[i] == '-' ? 1 : 0;
               text.substr(i + sign, 8) == "Infinity") {
      put(i, 8 + sign, "0");
      i += 7 + sign;
    } else if (const std::size_t end = json_number_end(text, i); end > i) {
      put(i, end - i, "0");
      i = end - 1;
    }
  }
  return result;
}

}  // namespace detail

/// Why a record cannot be used, and how many unpaired surrogates were read as U+FFFD.
struct JsonRecordResult {
  std::string fault;  ///< empty: none
  std::size_t surrogates = 0;
};

/// Puts what the JSON object `record`, which stands at byte `offset` of its file, holds in `columns` into `cells`, and
/// the names of all columns in their order into `keys` if it is given. Of a name that is there twice the last counts,
/// as in Python. Numbers of any size, NaN and Infinity are read as Python reads them; NaN is an empty text.
inline JsonRecordResult json_cells(std::string_view record, std::size_t offset,
                                   std::span<const std::string> columns, std::span<Cell> cells,
                                   std::vector<std::string>* keys = nullptr) {
  JsonRecordResult result;
  const auto parse = [&](std::string_view text) {
    for (Cell& cell : cells) cell.kind = Cell::Kind::absent;
    detail::JsonRecordHandler handler(columns, cells, keys);
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
      result.fault = handler.top == "object"
                         ? ""
                         : "is " + std::string(handler.top) + ", expected one JSON object";
      return true;
    }
    result.fault = "byte " + std::to_string(offset + handler.error_byte) +
                   ": not valid JSON: " + handler.error_reason;
    return false;
  };
  if (parse(record)) return result;
  const std::string again = detail::tolerant_json(record, result.surrogates);
  if (again != record) parse(again);
  return result;
}

/// The names of a record's columns; none where it is no object.
inline std::vector<std::string> json_keys(std::string_view record) {
  std::vector<std::string> keys;
  json_cells(record, 0, {}, {}, &keys);
  return keys;
}

/// Calls f(record, number of its line from 1, byte at which it begins) for every line that holds more than white space,
/// until f returns false.
template <class F>
void for_each_json_line(std::string_view text, F f) {
  std::size_t number = 1;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos && !f(line, number, begin))
      return;
    begin = end + 1;
  }
}

namespace detail {

/// Walks through JSON without reading it: strings, and brackets that match.
class JsonWalker {
 public:
  JsonWalker(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  bool done() {
    skip_space();
    return at_ >= text_.size();
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  std::size_t at() const { return at_; }
  std::size_t line() {
    line_ += std::size_t(std::count(text_.begin() + std::ptrdiff_t(counted_),
                                    text_.begin() + std::ptrdiff_t(at_), '\n'));
    counted_ = at_;
    return line_;
  }
  void go_to(std::size_t at) { at_ = at; }

  /// Passes over `mark`.
  void expect(char mark) {
    if (peek() != mark) refuse(std::string("expected '") + mark + "'");
    ++at_;
  }
  bool take(char mark) {
    if (peek() != mark) return false;
    ++at_;
    return true;
  }

  /// Passes over one value, which it returns.
  std::string_view value() {
    const char first = peek();
    const std::size_t begin = at_;
    if (first == '"') {
      string();
    } else if (first == '{' || first == '[') {
      brackets();
    } else {
      at_ = std::min(text_.find_first_of(",]}: \t\r\n", at_), text_.size());
      if (at_ == begin) refuse(done() ? "unexpected end" : "expected a value");
    }
    return text_.substr(begin, at_ - begin);
  }

  /// Passes over a string, and gives what is between its quotes.
  std::string_view string() {
    if (peek() != '"') refuse("expected '\"'");
    const std::size_t begin = at_;
    for (std::size_t quote = at_;;) {
      quote = text_.find('"', quote + 1);
      if (quote == std::string_view::npos) refuse("a string begins here and does not end");
      std::size_t backslashes = 0;
      while (text_[quote - 1 - backslashes] == '\\') ++backslashes;
      if (backslashes % 2 == 1) continue;
      at_ = quote + 1;
      break;
    }
    return text_.substr(begin + 1, at_ - begin - 2);
  }

  [[noreturn]] void refuse(const std::string& what) {
    throw io_error(path_ + ":" + std::to_string(line()) + ": byte " + std::to_string(at_) +
                   ": not valid JSON: " + what + "; correct it there or fetch the file again");
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  /// Passes over {...} or [...] with all that is in it.
  void brackets() {
    const std::size_t begin = at_;
    std::size_t depth = 0;
    do {
      while (at_ < text_.size() && !is_mark(text_[at_])) ++at_;
      if (at_ >= text_.size()) {
        at_ = begin;
        refuse("a bracket opens here and does not close");
      }
      if (text_[at_] == '"') {
        string();
        continue;
      }
      depth = text_[at_] == '{' || text_[at_] == '[' ? depth + 1 : depth - 1;
      ++at_;
    } while (depth > 0);
  }

  static bool is_mark(char c) { return c == '"' || c == '{' || c == '}' || c == '[' || c == ']'; }

  std::string_view text_;
  const std::string& path_;
  std::size_t at_ = 0, counted_ = 0, line_ = 1;
};

/// The members of an object that are lists of objects, and whether it has a text under one of some names, as a record
/// has.
struct JsonLists {
  struct List {
    std::string_view name;
    std::size_t at;
  };
  std::vector<List> lists;
  bool is_record = false;
};

/// Reads the object that `walker` stands at. Throws io_error where it is broken.
inline JsonLists json_lists(JsonWalker walker, std::span<const std::string_view> columns) {
  JsonLists found;
  walker.expect('{');
  if (walker.peek() != '}') do {
      const std::string_view name = walker.string();
      walker.expect(':');
      const char opens = walker.peek();
      const std::size_t at = walker.at();
      const std::string_view value = walker.value();
      const std::size_t inside = value.find_first_not_of(" \t\r\n", 1);
      if (opens == '[' && inside != std::string_view::npos && value[inside] == '{')
        found.lists.push_back({name, at});
      found.is_record =
          found.is_record || (opens == '"' && std::ranges::find(columns, name) != columns.end());
    } while (walker.take(','));
  walker.expect('}');
  return found;
}

/// Where the list of records stands in an object that holds one: the value of "data", or else of the only member that
/// is a list of objects, unless the object has a text under one of `columns` and so is a record. Throws io_error when
/// several could be it.
inline std::optional<std::size_t> json_record_list(const JsonWalker& walker,
                                                   const std::string& path,
                                                   std::span<const std::string_view> columns) {
  const auto [lists, is_record] = json_lists(walker, columns);
  const auto data = std::ranges::find(lists, "data", &JsonLists::List::name);
  if (data != lists.end()) return data->at;
  if (is_record || lists.empty()) return std::nullopt;
  if (lists.size() > 1)
    throw io_error(path + ": holds lists of records under \"" + one_line(lists[0].name) +
                   "\" and \"" + one_line(lists[1].name) +
                   "\"; put the one to read under \"data\" or into a file of its own");
  return lists.front().at;
}

}  // namespace detail

/// Calls f as for_each_json_line does for every record of a document: the elements of an array, those of the list in an
/// object ({"data": [...]}; see json_record_list), or objects one after another. An element that is no object is handed
/// on as well. Throws io_error where brackets, commas and strings do not fit together. Two walks over the text.
template <class F>
void for_each_json_record(std::string_view text, const std::string& path,
                          std::span<const std::string_view> columns, F f) {
  detail::JsonWalker walker(text, path);
  const auto elements = [&] {
    walker.expect('[');
    if (walker.take(']')) return true;
    do {
      walker.peek();
      const std::size_t at = walker.at(), line = walker.line();
      if (!f(walker.value(), line, at)) return false;
    } while (walker.take(','));
    walker.expect(']');
    return true;
  };
  while (!walker.done()) {
    const std::size_t at = walker.at(), line = walker.line();
    if (walker.peek() == '[') {
      if (!elements()) return;
    } else if (walker.peek() != '{') {
      walker.refuse("expected an object or an array of objects");
    } else if (const auto list = detail::json_record_list(walker, path, columns)) {
      walker.value();
      const std::size_t behind = walker.at();
      walker.go_to(*list);
      if (!elements()) return;
      // The list of damaged JSON may end behind its object.
      walker.go_to(std::max(behind, walker.at()));
    } else if (!f(walker.value(), line, at)) {
      return;
    }
  }
}

}  // namespace srformer
