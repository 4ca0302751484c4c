// SPDX-License-Identifier: Apache-2.0
// A run of finetune on one page, report.html: a file without scripts and without anything from elsewhere. All of it is from the
// run's own files: report.json (run_record.hpp), metrics.jsonl, all_results.json and trainer_state.json.
#pragma once

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <srformer/io/file.hpp>
#include <srformer/io/hf_checkpoint.hpp>
#include <srformer/io/json_records.hpp>

#include "curves.hpp"

namespace srformer::program {

/// The metrics.jsonl of a run, named by its folder. A line that was cut off while it was written is left out, and what was
/// made again later, too. Throws io_error for other lines that are no objects.
inline LoggedRun read_logged_run(const std::filesystem::path& path) {
  const MappedFile file(path);
  LoggedRun run{std::filesystem::absolute(path).parent_path().filename().string(), {}};
  std::string_view text = file.text();
  if (const std::size_t last = text.rfind('\n') + 1; last < text.size()) {
    const std::string_view rest = text.substr(last);
    if (!nlohmann::json::accept(rest)) text = text.substr(0, last);
  }
  for_each_json_line(text, [&](std::string_view line, std::size_t number, std::size_t begin) {
    const std::string place = path.string() + ":" + std::to_string(number);
    if (!parse_json(line, place, begin).is_object())
      throw io_error(place + ": is no object; give the metrics.jsonl of a run");
    run.entries.push_back(nlohmann::ordered_json::parse(line));
    return true;
  });
  run.entries = without_overtaken(std::move(run.entries));
  return run;
}

/// What the files of a run say; what there is not is empty.
struct RunFiles {
  LoggedRun run;
  nlohmann::ordered_json record, results, state;
};

/// Throws io_error where the folder has none of them, or one that is no object.
inline RunFiles read_run_files(const std::filesystem::path& folder) {
  const auto read = [&](const char* name) {
    const std::filesystem::path path = folder / name;
    if (!std::filesystem::exists(path)) return nlohmann::ordered_json::object();
    read_json_file(path);  // for its errors; the order of keys is kept by the other
    const auto json = nlohmann::ordered_json::parse(MappedFile(path).text());
    if (!json.is_object()) throw io_error(path.string() + ": is no object; is it that of a run?");
    return json;
  };
  RunFiles files{{std::filesystem::absolute(folder / "x").parent_path().filename().string(), {}},
                 read("report.json"),
                 read("all_results.json"),
                 read("trainer_state.json")};
  const std::filesystem::path metrics = folder / "metrics.jsonl";
  if (std::filesystem::exists(metrics))
    files.run = read_logged_run(metrics);
  else if (files.record.empty() && files.results.empty())
    throw io_error(folder.string() +
                   ": holds no run: there is no metrics.jsonl, report.json or all_results.json");
  return files;
}

/// A picture of a page: a panel, or why there is none.
struct Picture {
  std::string name, title, svg;
};

namespace detail {

/// Text as it stands in HTML and in XML. Control characters, which may not stand there, are U+FFFD.
inline std::string html(std::string_view text) {
  std::string escaped;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool no_character =
        text.substr(i, 3) == "\xEF\xBF\xBE" || text.substr(i, 3) == "\xEF\xBF\xBF";
    if (c == '&')
      escaped += "&amp;";
    else if (c == '<')
      escaped += "&lt;";
    else if (c == '>')
      escaped += "&gt;";
    else if (c == '"')
      escaped += "&quot;";
    else if (c == '\'')
      escaped += "&#39;";
    else if (no_character)
      escaped += "\xEF\xBF\xBD", i += 2;
    else if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
      escaped += "\xEF\xBF\xBD";
    else
      escaped += c;
  }
  return escaped;
}

/// What gnuplot writes, as part of a page: its names are its own among other pictures, its width is that of the page, and
/// what is black takes the colour of the text.
inline std::string inline_svg(std::string svg, const std::string& name) {
  const auto replace = [&](std::string_view from, const std::string& to) {
    for (std::size_t at = 0; (at = svg.find(from, at)) != std::string::npos; at += to.size())
      svg.replace(at, from.size(), to);
  };
  svg.erase(0, std::min(svg.find("<svg"), svg.size()));
  replace("<svg", "<svg role=\"img\" aria-label=\"" + name + "\"");
  for (const char quote : {'\'', '"'})
    replace(std::string(" id=") + quote, std::string(" id=") + quote + name + "-");
  replace("'#", "'#" + name + "-");
  replace("url(#", "url(#" + name + "-");
  for (const char* black : {"black", "rgb(  0,   0,   0)"})
    for (const char quote : {'\'', '"'})
      for (const char* what : {" fill=", " stroke=", " color="}) {
        const std::string attribute = what + std::string(1, quote);
        replace(attribute + black + quote, attribute + "currentColor" + quote);
      }
  return svg;
}

/// 12345678 as "12.3 MB".
inline std::string bytes_text(double bytes) {
  const std::array units{"bytes", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 999.5 && unit + 1 < units.size(); ++unit) bytes /= 1000;
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.3g %s", bytes, units[unit]);
  return text;
}

/// A value of JSON for people: numbers to six places, lists with commas.
inline std::string plain_text(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "none";
  if (value.is_number_float()) {
    char text[64];
    std::snprintf(text, sizeof text, "%.6g", value.get<double>());
    return text;
  }
  if (!value.is_array()) return value.dump();
  std::string all;
  for (const auto& element : value) all += (all.empty() ? "" : ", ") + plain_text(element);
  return all;
}

inline constexpr std::string_view report_style = R"(
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --paper: #ffffff; --card: #f4f6f8; --rule: #d5dbe1;
  --accent: #3b82c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ee; --soft: #9aa8b5; --paper: #14191f; --card: #1d242c;
  --rule: #36414c; --accent: #6aa7de; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
p { margin: .3rem 0 .6rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
.card { background: var(--card); border-radius: .5rem; padding: .8rem; margin: 0; min-width: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
td { overflow-wrap: anywhere; }
td:first-child { overflow-wrap: break-word; }
td.number, th.number { text-align: right; }
td.number { overflow-wrap: normal; white-space: nowrap; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .6rem; }
.name { color: var(--soft); font-size: .85rem; margin: .4rem 0 0; }
.bar { display: block; height: .6rem; min-width: 1px; background: var(--accent); border-radius: .2rem; }
.wide { width: 12rem; vertical-align: middle; }
@media (max-width: 30rem) { .wide { display: none; } }
summary { cursor: pointer; }
.example { margin-bottom: 1rem; }
@media print { :root { color-scheme: light; --ink: #000000; --soft: #444444; --paper: #ffffff; --card: #ffffff; --rule: #bbbbbb; }
  body { max-width: none; padding: 0; font-size: 10pt; } .card { border: 1px solid var(--rule); } }
)";

/// The page, part by part.
class ReportPage {
 public:
  using Json = nlohmann::ordered_json;

  ReportPage(const RunFiles& files, const std::vector<Picture>& pictures, const std::string& notice)
      : files_(files), pictures_(pictures), notice_(notice) {}

  std::string text() {
    const std::string title = "Run " + files_.run.name;
    page_ =
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
        html(title) + "</title>\n<style>" + std::string(report_style) +
        "</style>\n</head>\n<body>\n<h1>" + html(title) + "</h1>\n";
    add_introduction(), add_scores(), add_curves(), add_recurrence(), add_examples();
    add_data(), add_settings(), add_time(), add_memory();
    return page_ + "</body>\n</html>\n";
  }

 private:
  const Json& at(const Json& object, const char* name) const {
    static const Json nothing;
    const auto found = object.is_object() ? object.find(name) : object.end();
    return object.is_object() && found != object.end() ? *found : nothing;
  }
  void paragraph(const std::string& text, const char* kind = "") {
    page_ += "<p" + std::string(*kind != '\0' ? " class=\"" + std::string(kind) + "\"" : "") + ">" +
             html(text) + "</p>\n";
  }
  void heading(const char* text) { page_ += "<h2>" + std::string(text) + "</h2>\n"; }

  /// A table of words; the columns from `numbers` on are numbers.
  void table(const std::vector<std::string>& head,
             const std::vector<std::vector<std::string>>& rows, std::size_t numbers) {
    const auto row = [&](const std::vector<std::string>& cells, const char* tag) {
      page_ += "<tr>";
      for (std::size_t i = 0; i < cells.size(); ++i)
        page_ += "<" + std::string(tag) + (i >= numbers ? " class=\"number\"" : "") + ">" +
                 html(cells[i]) + "</" + tag + ">";
      page_ += "</tr>\n";
    };
    page_ += "<div class=\"scroll\"><table>\n";
    row(head, "th");
    for (const auto& cells : rows) row(cells, "td");
    page_ += "</table></div>\n";
  }

  void add_introduction() {
    const Json& model = at(files_.record, "model");
    if (model.is_object())
      paragraph(plain_text(at(model, "checkpoint")) + ": " + plain_text(at(model, "model_type")) +
                ", " + plain_text(at(model, "parameters")) + " parameters, " +
                plain_text(at(model, "cross_attention")) + ". " + plain_text(at(model, "device")) +
                ".");
    const Json& steps = at(files_.record, "steps");
    if (steps.is_object()) {
      std::string text =
          plain_text(at(steps, "last")) + " of " + plain_text(at(steps, "of")) + " steps";
      if (at(steps, "first") != 0)
        text += ", of which this start made those after step " + plain_text(at(steps, "first"));
      paragraph(text + ". Written " + plain_text(at(files_.record, "written")) + ".", "soft");
    }
  }

  void add_scores() {
    heading("Scores");
    const Json& best = at(files_.state, "best_metric");
    if (best.is_number())
      paragraph("Best evaluation: " + plain_text(best) + " after step " +
                plain_text(at(files_.state, "best_global_step")) +
                (at(files_.state, "best_model_checkpoint").is_string()
                     ? ", saved as " + plain_text(at(files_.state, "best_model_checkpoint"))
                     : "") +
                ".");
    if (files_.results.empty())
      return paragraph("There is no last evaluation: the run has not come to its end.", "soft");
    add_score_table();
    std::vector<std::vector<std::string>> rows;
    for (const auto& [name, value] : files_.results.items())
      rows.push_back({name, plain_text(value)});
    page_ += "<details><summary>All of all_results.json</summary>\n";
    table({"", "value"}, rows, 1);
    page_ += "</details>\n";
  }

  /// The last evaluations side by side.
  void add_score_table() {
    std::vector<std::pair<std::string, std::string>> sets;
    for (const auto& [prefix, name] :
         {std::pair{"eval_", "validation"}, std::pair{"predict_", "test"}})
      if (files_.results.contains(std::string(prefix) + "samples")) sets.emplace_back(prefix, name);
    std::vector<std::string> head{""};
    for (const auto& set : sets) head.push_back(set.second);
    std::vector<std::vector<std::string>> rows;
    for (const auto& [key, name] :
         {std::pair{"samples", "texts"}, std::pair{"loss", "loss per token"},
          std::pair{"rouge1", "ROUGE-1"}, std::pair{"rouge2", "ROUGE-2"},
          std::pair{"rougeL", "ROUGE-L"}, std::pair{"rougeLsum", "ROUGE-Lsum"},
          std::pair{"gen_len", "tokens of a prediction"}}) {
      std::vector<std::string> row{name};
      bool any = false;
      for (const auto& set : sets) {
        const Json& value = at(files_.results, (set.first + key).c_str());
        any = any || value.is_number();
        row.push_back(value.is_number() ? plain_text(value) : "");
      }
      if (any) rows.push_back(std::move(row));
    }
    if (rows.empty()) return paragraph("Nothing was evaluated at the end.", "soft");
    table(head, rows, 1);
    paragraph("ROUGE is the F-measure in percent.", "soft");
  }

  void add_curves() {
    heading("Curves");
    if (!notice_.empty()) paragraph(notice_);
    if (pictures_.empty() && notice_.empty()) paragraph("Nothing was logged.", "soft");
    page_ += "<div class=\"grid\">\n";
    for (const Picture& picture : pictures_)
      page_ += "<figure class=\"card\" id=\"" + picture.name + "\"><figcaption>" +
               html(picture.title) + "</figcaption>\n" + picture.svg + "</figure>\n";
    page_ += "</div>\n";
  }

  /// The numbers of the recurrence at the last log, layer by layer.
  void add_recurrence() {
    const std::array columns{"leak", "threshold", "firing"};
    const Json* last = nullptr;
    for (const Json& entry : files_.run.entries)
      if (at(entry, "leak").is_array()) last = &entry;
    if (last == nullptr) return;
    heading("Recurrence");
    std::vector<std::vector<std::string>> rows;
    for (std::size_t layer = 0; layer < at(*last, "leak").size(); ++layer) {
      auto& row = rows.emplace_back(std::vector{std::to_string(layer)});
      for (const char* name : columns) {
        const Json& list = at(*last, name);
        row.push_back(list.is_array() && layer < list.size() ? plain_text(list[layer]) : "");
      }
    }
    table({"decoder layer", "leak", "threshold", "share that fires"}, rows, 1);
    paragraph("After step " + plain_text(at(*last, "step")) +
                  ". The share is of the states, a cell at a segment each, that were above the "
                  "threshold, over the last "
                  "micro-batch of the step.",
              "soft");
  }

  void add_text(const char* name, const Json& excerpt) {
    page_ += "<p class=\"name\">" + std::string(name) + "</p><div class=\"text\" dir=\"auto\">" +
             html(plain_text(at(excerpt, "text"))) + "</div>\n";
    const Json &text = at(excerpt, "text"), &characters = at(excerpt, "characters");
    if (!text.is_string() || !characters.is_number_integer()) return;
    index_t shown = 0;
    for (const char c : text.get_ref<const std::string&>())
      shown += (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
    if (const auto more = characters.get<index_t>() - shown; more > 0)
      paragraph(std::to_string(more) + " more characters", "soft");
  }

  void add_examples() {
    const Json &examples = at(files_.record, "examples"), &rows = at(examples, "rows");
    if (!rows.is_array() || rows.empty()) return;
    heading("Examples");
    paragraph(std::to_string(rows.size()) + " of the " + plain_text(at(examples, "of")) +
                  " predictions for --" + plain_text(at(examples, "flag")) +
                  ", from the lowest ROUGE-L to the highest, at equal distances in that order.",
              "soft");
    for (const Json& row : rows) {
      std::string title = "Row " + plain_text(at(row, "row"));
      if (at(row, "rougeL").is_number()) title += ", ROUGE-L " + plain_text(at(row, "rougeL"));
      page_ += "<div class=\"card example\"><strong>" + html(title) + "</strong>\n";
      add_text("prediction", at(row, "prediction"));
      add_text("reference", at(row, "reference"));
      add_text("source", at(row, "source"));
      page_ += "</div>\n";
    }
  }

  void add_data() {
    const Json& data = at(files_.record, "data");
    if (!data.is_array() || data.empty()) return;
    heading("Data");
    std::vector<std::vector<std::string>> rows;
    const auto lengths = [&](const Json& of) {
      return plain_text(at(of, "least")) + " / " + plain_text(at(of, "median")) + " / " +
             plain_text(at(of, "of_nine_tenths")) + " / " + plain_text(at(of, "most"));
    };
    for (const Json& set : data)
      rows.push_back({"--" + plain_text(at(set, "flag")), plain_text(at(set, "files")),
                      plain_text(at(set, "pairs")), lengths(at(set, "source_tokens")),
                      lengths(at(set, "summary_tokens"))});
    table({"", "files", "pairs", "tokens of a source", "tokens of a summary"}, rows, 2);
    paragraph("Tokens after cutting: the least, the median, that of nine tenths, and the most.",
              "soft");
    for (const Json& set : data) {
      const Json& notices = at(set, "notices");
      for (const Json& notice : notices.is_array() ? notices : Json::array())
        paragraph(plain_text(notice));
    }
  }

  void add_settings() {
    const Json &settings = at(files_.record, "settings"), &given = at(settings, "given"),
               &others = at(settings, "defaults");
    if (!given.is_object()) return;
    heading("Settings");
    const auto flags = [&](const Json& of) {
      std::vector<std::vector<std::string>> rows;
      for (const auto& [name, value] : of.items()) rows.push_back({"--" + name, plain_text(value)});
      table({"flag", "value"}, rows, 2);
    };
    const Json& preset = at(settings, "preset");
    if (preset.is_string())
      paragraph("With --preset " + plain_text(preset) + ", whose flags are among these.");
    flags(given);
    if (!others.is_object()) return;
    page_ += "<details><summary>The other flags, with their defaults</summary>\n";
    flags(others);
    page_ += "</details>\n";
  }

  /// Parts of a whole with their shares.
  void shares(const char* what, const std::vector<std::pair<std::string, double>>& parts,
              double whole, bool bytes) {
    page_ += "<div class=\"scroll\"><table>\n<tr><th>" + std::string(what) +
             "</th><th class=\"number\">" + (bytes ? "memory" : "seconds") +
             "</th><th class=\"number\">share</th><th class=\"wide\"></th></tr>\n";
    for (const auto& [name, part] : parts) {
      const double share = whole > 0 ? 100 * part / whole : 0;
      char percent[32], seconds[32];
      std::snprintf(percent, sizeof percent, "%.1f", std::clamp(share, 0.0, 100.0));
      std::snprintf(seconds, sizeof seconds, "%.2f", part);
      page_ += "<tr><td>" + html(name) + "</td><td class=\"number\">" +
               html(bytes ? bytes_text(part) : seconds) + "</td><td class=\"number\">" + percent +
               " %</td><td class=\"wide\"><span class=\"bar\" style=\"width:" + percent +
               "%\"></span></td></tr>\n";
    }
    page_ += "</table></div>\n";
  }

  void add_time() {
    const Json &time = at(files_.record, "time"), &all = at(time, "all");
    if (!all.is_number()) return;
    heading("Time");
    const double whole = all.get<double>();
    double rest = whole;
    std::vector<std::pair<std::string, double>> parts;
    for (const auto& [name, value] : time.items()) {
      if (name == "all" || !value.is_number()) continue;
      parts.emplace_back(name, value.get<double>());
      rest -= value.get<double>();
    }
    parts.emplace_back("everything else", std::max(rest, 0.0)), parts.emplace_back("all", whole);
    shares("part", parts, whole, false);
    paragraph(
        "By the clock, of this start of the program, from reading its first file to writing this "
        "page.",
        "soft");
  }

  void add_memory() {
    const Json& memory = at(files_.record, "memory");
    if (!at(memory, "peak").is_number()) return;
    heading("Memory");
    const auto number = [&](const char* name) {
      const Json& value = at(memory, name);
      return value.is_number() ? value.get<double>() : 0;
    };
    const double kept = number("parameters") + number("gradients") + number("optimizer_state");
    shares("part",
           {{"parameters", number("parameters")},
            {"gradients", number("gradients")},
            {"optimizer state", number("optimizer_state")},
            {"activations and scratch", std::max(number("peak") - kept, 0.0)},
            {"all, at its peak", number("peak")}},
           number("peak"), true);
    paragraph(
        "The peak is the most that the backend's pool of memory had in use at one time while the "
        "run trained and evaluated; parameters, "
        "gradients and optimizer state are counted by their numbers, and activations and scratch "
        "are what is left of "
        "the peak. The process itself had " +
            bytes_text(number("process_peak")) + " in the machine's memory at most.",
        "soft");
  }

  const RunFiles& files_;
  const std::vector<Picture>& pictures_;
  const std::string& notice_;
  std::string page_;
};

}  // namespace detail

/// The page as text. `notice` says why pictures are missing.
inline std::string report_text(const RunFiles& files, const std::vector<Picture>& pictures,
                               const std::string& notice) {
  return detail::ReportPage(files, pictures, notice).text();
}

/// Writes report.html into the folder of a run, from what its files say. Returns one line that says why curves are missing, or
/// nothing. Throws io_error where the folder holds no run and for files that cannot be read or written.
inline std::string write_report(const std::filesystem::path& folder) {
  const RunFiles files = read_run_files(folder);
  std::vector<Picture> pictures;
  std::string notice;
  for (const Panel& panel : panels) {
    const std::filesystem::path file =
        folder / ("report.tmp-" + std::to_string(::getpid()) + "-" + panel.name + ".svg");
    notice = draw_curves({files.run}, std::span(&panel, 1), file, {500, 340, true});
    if (!notice.empty()) {
      notice = "The curves of " + folder.string() + " are not in its report" +
               notice.substr(std::min(notice.rfind(": "), notice.size())) +
               "; plot --report makes it again";
      break;
    }
    if (!std::filesystem::exists(file)) continue;  // nothing of it was logged
    pictures.push_back({panel.name, panel.axis,
                        detail::inline_svg(std::string(MappedFile(file).text()), panel.name)});
    std::filesystem::remove(file);
  }
  ReplacementFile file(folder / "report.html");
  file.write(report_text(files, pictures, notice));
  file.commit();
  return notice;
}

}  // namespace srformer::program
