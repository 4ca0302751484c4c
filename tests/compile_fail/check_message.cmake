# Compiles SOURCE, which must fail with every sentence it names in a line "// expect: <regex>"; compiled with
# -DSRF_CONTROL, where the fault is left out, it must succeed, so that it fails for the fault alone.
#   cmake -DCOMPILER=g++ -DFLAGS=<file> [-DBEFORE=<header>] -DSOURCE=x.cpp -P check_message.cmake

cmake_minimum_required(VERSION 3.22)

file(STRINGS "${SOURCE}" expectations REGEX "^// expect: ")
if(NOT expectations)
  message(FATAL_ERROR "${SOURCE} has no line \"// expect: <regex>\"")
endif()

set(command "${COMPILER}" "@${FLAGS}" -fsyntax-only)
if(BEFORE)
  list(APPEND command -include "${BEFORE}")
endif()
execute_process(COMMAND ${command} -DSRF_CONTROL "${SOURCE}" RESULT_VARIABLE status
                OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} does not compile even with SRF_CONTROL:\n${output}")
endif()

execute_process(COMMAND ${command} "${SOURCE}" RESULT_VARIABLE status OUTPUT_VARIABLE output
                ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles and should not")
endif()
foreach(line IN LISTS expectations)
  string(REGEX REPLACE "^// expect: " "" expected "${line}")
  if(NOT output MATCHES "${expected}")
    message(FATAL_ERROR "${SOURCE} fails without the sentence\n  ${expected}\nbut with\n${output}")
  endif()
endforeach()
