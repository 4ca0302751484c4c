# Tests check_layers.cmake: each tree written here has one fault, which it must name; a sound tree must pass.
#   cmake -DSCRIPT=check_layers.cmake -DWORK=folder -P check_rule.cmake

cmake_minimum_required(VERSION 3.22)

# A folder of its own in WORK, since what is there is removed.
string(APPEND WORK "/check_rule_tree")

# expect(<"pass" or regex of the message> <file> <line>...): a tree of core/error.hpp, backend/tensor.hpp,
# backend/concept.hpp and `file` with the given lines.
function(expect message file)
  file(REMOVE_RECURSE "${WORK}")
  file(WRITE "${WORK}/core/error.hpp" "#pragma once\n")
  file(WRITE "${WORK}/backend/concept.hpp" "#include <srformer/core/error.hpp>\n")
  file(WRITE "${WORK}/backend/tensor.hpp" "#include <srformer/backend/concept.hpp>\n")
  file(WRITE "${WORK}/io/dataset.hpp" "#include <vector>\n")
  list(JOIN ARGN "\n" text)
  file(WRITE "${WORK}/${file}" "${text}\n")
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DROOT=${WORK}" -P "${SCRIPT}"
                  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(message STREQUAL pass)
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "refused a sound tree (${file}):\n${output}")
    endif()
  elseif(status EQUAL 0)
    message(FATAL_ERROR "passed a tree whose fault is in ${file}: ${text}")
  else()
    string(REGEX REPLACE "[ \n]+" " " output "${output}")
    if(NOT output MATCHES "${message}")
      message(FATAL_ERROR "refused ${file} without \"${message}\":\n${output}")
    endif()
  endif()
endfunction()

expect(pass ops/softmax.hpp "#include <srformer/backend/concept.hpp>" "#include <vector>")
expect(pass text/rouge.hpp "#include <srformer/backend/tensor.hpp>")
expect(pass models/t5.hpp "#include <srformer/io/dataset.hpp>")
expect(pass srformer.hpp "#include <srformer/backend/tensor.hpp>")
expect("core/view.hpp includes backend/tensor.hpp" core/view.hpp
       "#include <srformer/backend/tensor.hpp>")
expect("core/view.hpp includes backend/tensor.hpp" core/view.hpp
       "#if 0" "  #  include <srformer/backend/tensor.hpp>" "#endif")
expect("text/rouge.hpp includes backend/concept.hpp" text/rouge.hpp
       "#include <srformer/backend/concept.hpp>")
expect("text/rouge.hpp includes io/dataset.hpp" text/rouge.hpp "#include <srformer/io/dataset.hpp>")
expect("srformer.hpp includes io/dataset.hpp" srformer.hpp "#include <srformer/io/dataset.hpp>")
expect("ops/norm.hpp includes ops/nothing.hpp, which does not exist" ops/norm.hpp
       "#include <srformer/ops/nothing.hpp>")
expect("write <srformer/...>" ops/norm.hpp "#include \"../backend/tensor.hpp\"")
expect("no layer is named utils" utils/strings.hpp "#include <srformer/core/error.hpp>")

file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
execute_process(COMMAND "${CMAKE_COMMAND}" "-DROOT=${WORK}" -P "${SCRIPT}" RESULT_VARIABLE status
                OUTPUT_QUIET ERROR_QUIET)
if(status EQUAL 0)
  message(FATAL_ERROR "passed a tree without headers")
endif()
file(REMOVE_RECURSE "${WORK}")
