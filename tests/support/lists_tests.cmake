# Fails where PROGRAM lists no test cases: Catch2 2 ends a program that has two of one name before it lists any, and
# reports as its exit status how many it listed, so that catch_discover_tests() takes its failure for an empty list.
execute_process(COMMAND "${PROGRAM}" --list-tests OUTPUT_VARIABLE listed ERROR_VARIABLE said)
if(NOT listed MATCHES "[1-9][0-9]* (matching )?test case")
  message(FATAL_ERROR "${PROGRAM} lists no tests, so none of them would run:\n${listed}${said}")
endif()
