// SPDX-License-Identifier: Apache-2.0
// RFCs: pages, headings, what is prose, what belongs together and what is held out.
#include "../../examples/data/rfc.hpp"

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

using namespace srformer;
using namespace srformer::examples;
using namespace srformer::examples::rfc;

namespace {

using Lines = std::vector<std::string_view>;

std::optional<Heading> heading_in(std::string_view line) { return heading_of(Block{{line}}); }

std::optional<std::string> prose_in(std::string_view text) {
  return prose_of(blocks_of(lines_without_pages(text)).at(0));
}

/// A sentence of `words` words that no other index has.
std::string sentence(int index, int words) {
  std::string text = "It";
  for (int i = 1; i < words; ++i) text += " says thing" + std::string(1, char('a' + i % 26));
  return text + " of rule " + std::string(static_cast<std::size_t>(index % 7 + 1), 'r') +
         " and part " + std::to_string(index) + ".";
}

Document document(int number, std::vector<int> related = {}) {
  return {{number, "The abstract of number " + std::to_string(number) + " is this.",
           std::move(related)},
          {sentence(number, 30), "A paragraph that many documents have in common, word by word."}};
}

}  // namespace

TEST_CASE("feet and heads of pages are taken out, and a paragraph goes on over them") {
  const Lines one{"   The protocol is", "   described here.", "", "   Next."};
  CHECK(lines_without_pages("   The protocol is\n\n\n\nPostel             [Page 2]\n\f\n"
                            "RFC 791        Internet Protocol       September 1981\n\n\n"
                            "   described here.\n\n   Next.\n") == one);
  // Without a form feed, and with the feed on the line of the head.
  CHECK(lines_without_pages("   The protocol is\n\nPostel [page ii]\n\n"
                            "RFC 791   Internet Protocol   September 1981\n\n   described here.\n\n"
                            "   Next.\n") == one);
  CHECK(lines_without_pages("   The protocol is\nPostel [Page 2]\n\f"
                            "Internet Protocol   September 1981\n   described here.\n\n   Next.") ==
        one);
  // A page that ends with a sentence ends a paragraph; so does one before a list.
  CHECK(lines_without_pages(
            "   It ends.\n\nPostel [Page 2]\n\f\nRFC 791  IP  May 1981\n\n   New.\n") ==
        Lines{"   It ends.", "", "   New."});
  CHECK(lines_without_pages("   These are\nPostel [Page 2]\n\f\n   * one\n") ==
        Lines{"   These are", "", "   * one"});
  // Carriage returns and a document of pages alone.
  CHECK(lines_without_pages("a\r\n\r\nb\r\n") == Lines{"a", "", "b"});
  CHECK(lines_without_pages("\f\f\nPostel [Page 1]\n\f\n").empty());
  CHECK(lines_without_pages("").empty());
}

TEST_CASE("headings have a depth and a title") {
  struct Expected {
    std::string_view line, title;
    std::size_t depth;
  };
  for (const Expected& e :
       {Expected{"1.  Introduction", "introduction", 1},
        Expected{"1 INTRODUCTION", "introduction", 1},
        Expected{"3.2.1.  Header Format", "header format", 3},
        Expected{"References:", "references", 1}, Expected{"Appendix B. Examples", "examples", 1},
        Expected{"A.2.  Values of Fields", "values of fields", 2},
        Expected{"Authors' Addresses", "authors' addresses", 1}}) {
    INFO(e.line);
    const auto heading = heading_in(e.line);
    REQUIRE(heading);
    CHECK(heading->title == e.title);
    CHECK(heading->depth == e.depth);
  }
  // A sentence of a body, an entry of a table of contents, an address, a line of a list.
  for (const std::string_view line :
       {"   1. Introduction", "1. Introduction ........... 2", "1. Introduction          2",
        "5.1. Names . . . . . . 7", "and so on", "* one item"}) {
    INFO(line);
    CHECK(!heading_in(line));
  }
}

TEST_CASE("prose is told from figures, tables, grammars and code") {
  CHECK(prose_in("   The header of a net-\n   work is described in\n   the next section of this "
                 "memo.\n") ==
        "The header of a net-work is described in the next section of this memo.");
  CHECK(prose_in("   o  The sender may drop it when the receiver of it is not there.") ==
        "o The sender may drop it when the receiver of it is not there.");
  for (const std::string_view other :
       {"   +--------+--------+\n   |  Type  |  Code  |\n   +--------+--------+\n",
        "   name        value       meaning of the value\n   one         two         three of "
        "them\n",
        "   rule ::= one of the other rules that are said below it here",
        "   if (a == b) { return a; }  for (;;) { go on with the next one; and so on; }",
        "   Short text.", "   0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b"}) {
    INFO(other);
    CHECK(!prose_in(other));
  }
}

TEST_CASE("a document is its prose from the introduction on without its apparatus") {
  const std::string text =
      "Network Working Group\n\n              A Protocol of Things\n\nStatus of this Memo\n\n"
      "   This memo provides information for the community of readers of memos.\n\n"
      "Abstract\n\n   This abstract says in a few words what the document is about.\n\n"
      "Table of Contents\n\n   1. Introduction ........ 2\n   2. References ........ 3\n\n"
      "1. Introduction\n\n   The first paragraph says what the things are that we speak of.\n\n"
      "   +---+\n   | A |\n   +---+\n\n"
      "1.1. Terms\n\n   The second paragraph says what the words mean that we use here.\n\n"
      "2. References\n\n2.1. Normative References\n\n"
      "   [1] A book that says a lot about what the things are that we use.\n\n"
      "3. Security Considerations\n\n   The third paragraph says that none of this can be a danger "
      "to you.\n\n"
      "Author's Address\n\n   The author of this lives in a house that has a number on it.\n\n"
      "Appendix A. More\n\n   The last paragraph says what was left over when all was said.\n";
  const std::vector<std::string> paragraphs = paragraphs_of(text);
  REQUIRE(paragraphs.size() == 4);
  CHECK(paragraphs[0].starts_with("The first paragraph"));
  CHECK(paragraphs[1].starts_with("The second paragraph"));
  CHECK(paragraphs[2].starts_with("The third paragraph"));
  CHECK(paragraphs[3].starts_with("The last paragraph"));
  // Without an introduction from the first numbered section on; without any, nothing.
  CHECK(paragraphs_of(
            "1. Things\n\n   The only paragraph says what the things are that we speak of.\n")
            .size() == 1);
  CHECK(paragraphs_of("   Some words that are in no section of any document at all.\n").empty());
  CHECK(paragraphs_of("").empty());
}

TEST_CASE("a record has a number, an abstract in one line and relations") {
  const Record record = record_of(nlohmann::json::parse(
      R"({"doc_id":"RFC0791","abstract":" This memo\r\nsays  it.  [STANDARDS-TRACK]",)"
      R"("obsoletes":["RFC0760","STD5"],"obsoleted_by":["RFC9999"]})"));
  CHECK(record.number == 791);
  CHECK(record.abstract == "This memo says it.");
  CHECK(record.related == std::vector{760, 9999});
  CHECK(record_of({{"doc_id", "RFC1"}, {"abstract", "It is said in [RFC2]"}}).abstract ==
        "It is said in [RFC2]");
  CHECK(record_of({{"doc_id", "RFC1"}, {"abstract", nullptr}}).abstract.empty());
  CHECK_THROWS_AS(record_of({{"title", "no number"}}), nlohmann::json::exception);
  CHECK(number_of("rfc791.txt.gz") == 791);
  CHECK(number_of("rfc791a.txt") == 0);
  CHECK(number_of("draft-ietf-things-01.txt.gz") == 0);
  CHECK(number_of("rfc-index.txt") == 0);
}

TEST_CASE("bytes that are not UTF-8 are Latin-1") {
  CHECK(as_utf8("\xef\xbb\xbfgr\xc3\xbc\xc3\x9f") == "gr\xc3\xbc\xc3\x9f");
  CHECK(as_utf8("gr\xfc\xdf") == "gr\xc3\xbc\xc3\x9f");
}

TEST_CASE("versions of a document are in one split") {
  std::map<int, Document> documents;
  for (int n = 1; n <= 400; ++n) documents[n] = document(n);
  // Chains through numbers that are not there, in either direction, and a star.
  documents[300] = document(300, {299, 5000});
  documents[301] = document(301, {5000});
  documents[299] = document(299, {17});
  for (const int n : {40, 140, 240, 340}) documents[n] = document(n, {390});
  const auto split_by_number = splits_of(documents);
  for (const int n : {299, 300, 301}) CHECK(split_by_number.at(n) == split_by_number.at(17));
  for (const int n : {40, 140, 240, 340}) CHECK(split_by_number.at(n) == split_by_number.at(390));
  std::array<int, 3> counts{};
  for (const auto& [number, split] : split_by_number) ++counts[static_cast<std::size_t>(split)];
  CHECK(counts[0] > 320);
  CHECK(counts[1] > 4);
  CHECK(counts[2] > 4);
  // A document that is added moves no other.
  auto more = documents;
  more[401] = document(401);
  for (const auto& [number, split] : splits_of(more))
    if (number != 401) CHECK(split == split_by_number.at(number));
}

TEST_CASE("nothing of validation and test is pretrained on") {
  std::map<int, Document> documents;
  for (int n = 1; n <= 300; ++n) documents[n] = document(n);
  const Corpus corpus = corpus_of(documents, {.min_abstract_words = 3, .min_text_words = 20});
  const auto& [train, validation, test] = corpus.pairs;
  CHECK(train.size() + validation.size() + test.size() == 300);
  CHECK(corpus.counts.documents == 300);
  std::string all;
  for (const std::string& paragraph : corpus.paragraphs) all += paragraph + '\n';
  REQUIRE(!validation.empty());
  REQUIRE(!test.empty());
  for (const auto* pairs : {&validation, &test}) {
    for (const examples::Pair& pair : *pairs) {
      CHECK(all.find(pair.summary) == std::string::npos);
      for (std::size_t at = 0; at < pair.text.size();) {
        const std::size_t end = std::min(pair.text.find('\n', at), pair.text.size());
        CHECK(all.find(pair.text.substr(at, end - at) + '\n') == std::string::npos);
        at = end + 1;
      }
    }
  }
  // Each training paragraph once; the common one is in all splits and so in none of it.
  CHECK(corpus.paragraphs.size() == train.size());
  CHECK(std::set(corpus.paragraphs.begin(), corpus.paragraphs.end()).size() == train.size());
}

TEST_CASE("short, repeated and missing abstracts and short texts are counted") {
  std::map<int, Document> documents;
  for (int n = 1; n <= 5; ++n) documents[n] = document(n);
  documents[2].record.abstract = documents[1].record.abstract;
  documents[3].record.abstract.clear();
  documents[4].paragraphs.clear();
  const Corpus corpus = corpus_of(documents, {.min_abstract_words = 3, .min_text_words = 20});
  CHECK(corpus.counts.repeated == 1);
  CHECK(corpus.counts.without_abstract == 1);
  CHECK(corpus.counts.too_short == 1);
  std::size_t pairs = 0;
  for (const auto& of_split : corpus.pairs) pairs += of_split.size();
  CHECK(pairs == 2);
}
