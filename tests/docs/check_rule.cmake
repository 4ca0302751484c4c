# Tests check_quotes.cmake: each page written here has one fault, which it must name; a sound one must pass.
#   cmake -DSCRIPT=check_quotes.cmake -DWORK=folder -P check_rule.cmake

cmake_minimum_required(VERSION 3.22)

# A folder of its own in WORK, since what is there is removed.
string(APPEND WORK "/check_rule_tree")

# expect(<"pass" or regex of the message> <line of the page>...): a tree of code.hpp and docs/part/page.md.
function(expect message)
  file(REMOVE_RECURSE "${WORK}")
  file(WRITE "${WORK}/code.hpp" "int f() {\n  int x[] = {1; 2};\n\n    return x[0] + \"\\n\"[0];\n}\n")
  string(REPLACE "|" "\n" text "${ARGN}")
  file(WRITE "${WORK}/docs/part/page.md" "A page; of [words].\n\n${text}\n")
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DROOT=${WORK}" -P "${SCRIPT}"
                  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(message STREQUAL pass)
    if(NOT status EQUAL 0 OR NOT output MATCHES "quotes stand in their files")
      message(FATAL_ERROR "refused a sound page:\n${text}\n${output}")
    endif()
  elseif(status EQUAL 0)
    message(FATAL_ERROR "passed a page whose fault is \"${message}\":\n${text}")
  elseif(NOT output MATCHES "${message}")
    message(FATAL_ERROR "refused a page without \"${message}\":\n${text}\n${output}")
  endif()
endfunction()

set(from "<!-- from: code.hpp -->|```cpp|")
expect(pass "${from}int f() {|  int x[] = {1; 2};|```")
expect(pass "${from}int x[] = {1; 2};||return x[0] + \"\\n\"[0];|```|words|${from}}|```|words")
expect(pass "```cpp|int g();|```|${from}int f() {|```")
expect("begins with \"int f.. {\" is not in code.hpp" "${from}int f() {|  int x[] = {1; 3};|```")
expect("begins with \"int f..\" is not in code.hpp" "${from}int f()|```")
expect("begins with \"int x.*\" is not in code.hpp" "${from}int x[] = {1; 2};|return x[0] + \"\\n\"[0];|```")
expect("begins with \"}\" is not in code.hpp" "${from}int f() {|```|${from}}|int f() {|```")
expect("is empty or does not end" "${from}```")
expect("is empty or does not end" "${from}int f() {")
expect("there is no block of cpp" "<!-- from: code.hpp -->|words|```cpp|int f() {|```")
expect("there is no block of cpp" "<!-- from: code.hpp -->|```sh|int f() {|```")
expect("none.hpp does not exist" "<!-- from: none.hpp -->|```cpp|int f() {|```")
expect("is not <!-- from: path -->" "<!-- from: code.hpp, in part -->|```cpp|int f() {|```")
expect("no quote was found" "```cpp|int f() {|```")
file(REMOVE_RECURSE "${WORK}")
