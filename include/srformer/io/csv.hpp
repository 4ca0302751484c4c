// SPDX-License-Identifier: Apache-2.0
// Records of comma- or tab-separated text.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <srformer/core/error.hpp>

namespace srformer {

/// Reads the records of RFC 4180: fields between delimiters, quoted where they hold one, a line end or a quote, which
/// is then doubled. Lines end in "\n", "\r\n" or "\r"; empty lines are passed over. A quote inside a field that does
/// not begin with one stands for itself. O(1) for a byte; `text` must outlive the reader.
class CsvReader {
 public:
  /// `path` stands in errors.
  CsvReader(std::string_view text, char delimiter, std::string path)
      : text_(text), delimiter_(delimiter), path_(std::move(path)) {}

  /// The next record, or false at the end. Throws io_error with path and line for a quoted field that does not end, or
  /// after whose end something other than a delimiter follows.
  bool next(std::vector<std::string>& fields) {
    while (at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r')) end_line();
    if (at_ >= text_.size()) return false;
    first_line_ = line_;
    std::size_t count = 0;
    for (;;) {
      if (fields.size() <= count) fields.emplace_back();
      fields[count].clear();
      read_field(fields[count++]);
      if (at_ >= text_.size()) break;
      if (text_[at_] == delimiter_) {
        ++at_;
        continue;
      }
      end_line();
      break;
    }
    fields.resize(count);
    return true;
  }

  /// The line, from 1, at which the last record begins.
  std::size_t line() const { return first_line_; }

 private:
  /// Passes over one line end.
  void end_line() {
    if (text_[at_] == '\r' && at_ + 1 < text_.size() && text_[at_ + 1] == '\n') ++at_;
    ++at_, ++line_;
  }

  /// Up to the delimiter, line end or end of the text behind the field.
  void read_field(std::string& field) {
    if (at_ < text_.size() && text_[at_] == '"') return read_quoted(field);
    const auto stops = [&](char c) { return c == delimiter_ || c == '\n' || c == '\r'; };
    const auto begin = text_.begin() + static_cast<std::ptrdiff_t>(at_);
    const auto end = std::find_if(begin, text_.end(), stops);
    field.assign(begin, end);
    at_ = static_cast<std::size_t>(end - text_.begin());
  }

  void read_quoted(std::string& field) {
    const std::size_t opened = line_;
    ++at_;
    for (;;) {
      const std::size_t quote = text_.find('"', at_);
      if (quote == std::string_view::npos)
        refuse(opened, "a quoted field begins here and does not end");
      const std::string_view part = text_.substr(at_, quote - at_);
      field += part;
      count_lines(part);
      at_ = quote + 1;
      if (at_ < text_.size() && text_[at_] == '"') {  // doubled
        field += '"';
        ++at_;
        continue;
      }
      if (at_ < text_.size() && text_[at_] != delimiter_ && text_[at_] != '\n' &&
          text_[at_] != '\r')
        refuse(line_, "text follows the quote that ends a field");
      return;
    }
  }

  void count_lines(std::string_view part) {
    for (std::size_t i = part.find_first_of("\r\n"); i != std::string_view::npos;
         i = part.find_first_of("\r\n", i + 1))
      if (part[i] == '\n' || i + 1 >= part.size() || part[i + 1] != '\n') ++line_;
  }

  [[noreturn]] void refuse(std::size_t line, const std::string& what) const {
    throw io_error(path_ + ":" + std::to_string(line) + ": " + what +
                   "; a quote within a quoted field is written twice");
  }

  std::string_view text_;
  char delimiter_;
  std::string path_;
  std::size_t at_ = 0, line_ = 1, first_line_ = 0;
};

}  // namespace srformer
