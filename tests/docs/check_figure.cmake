# Fails when a figure is not what its script draws.
#   cmake -DPYTHON=python3 -DIMAGES=docs/images -DWORK=folder -P check_figure.cmake

cmake_minimum_required(VERSION 3.22)

set(drawn "${WORK}/what_a_query_sees.svg")
execute_process(COMMAND "${PYTHON}" "${IMAGES}/make_what_a_query_sees.py" "${drawn}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" -E compare_files "${drawn}" "${IMAGES}/what_a_query_sees.svg"
                RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "docs/images/what_a_query_sees.svg is another: run make_what_a_query_sees.py beside it")
endif()
