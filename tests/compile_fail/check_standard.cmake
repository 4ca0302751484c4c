# Compiles each header below C++20, as a user does who forgets -std=c++20: it must end with one sentence, and soon.
#   cmake -DCOMPILER=g++ -DFLAGS=<file> -DLANGUAGE=<c++|cu> -DINCLUDE=<folder> "-DHEADERS=a.hpp b.hpp" -DWORK=<folder>
#         -P check_standard.cmake

cmake_minimum_required(VERSION 3.22)

set(sentence "srformer needs C\\+\\+20: compile with -std=c\\+\\+20 or newer")
set(source "${WORK}/below.cpp")
separate_arguments(HEADERS)
set(tested 0)
foreach(header IN LISTS HEADERS)
  file(WRITE "${source}" "#include <${header}>\nint main() {}\n")
  set(command "${COMPILER}" "@${FLAGS}" -std=c++17 -fsyntax-only "${source}")
  if(LANGUAGE STREQUAL cu)
    set(command "${COMPILER}" -std=c++17 "-I${INCLUDE}" -x cu -c "${source}" -o "${source}.o")
  endif()
  execute_process(COMMAND ${command} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX MATCHALL "[^\n]+" lines "${output}")
  # What leads to the header is a line for each include in between, "In file included from a:1," or "from b:2".
  list(FILTER lines EXCLUDE REGEX "^(In file included)? +from ")
  list(FILTER lines EXCLUDE REGEX "^In file included from ")
  list(LENGTH lines count)
  if(status EQUAL 0 OR NOT output MATCHES "${sentence}" OR count GREATER 8)
    message(FATAL_ERROR "${header} with -std=c++17 ends with ${status} and ${count} lines:\n${output}")
  endif()
  math(EXPR tested "${tested} + 1")
endforeach()
if(tested EQUAL 0)
  message(FATAL_ERROR "no header was compiled")
endif()
message("${tested} headers refused")
