# Links programs, tests and header checks by the includes they write, so that no list names them a second time.

# Which include, by its first letters, asks for which target; the first match counts.
set(SRFORMER_INCLUDE_TARGETS
    "device/device.hpp=srformer_device"
    "program.hpp=srformer_command_line"
    "../program.hpp=srformer_command_line"
    "../examples/device/device.hpp=srformer_device"
    "thrust/system/omp/=srformer::thrust_omp"
    "thrust/system/tbb/=srformer::thrust_tbb"
    "thrust/system/cuda/=srformer::cuda"
    "thrust/=srformer::thrust_cpp"
    "cub/=srformer::cuda"
    "cublas=srformer::cuda"
    "cuda_runtime=srformer::cuda"
    "nlohmann/=srformer::io"
    "zlib.h=srformer::gzip"
    "mpi.h=srformer::mpi"
    "nccl.h=srformer::nccl"
    "sentencepiece_=srformer::text"
    "unicode/=srformer::text"
    "benchmark/=benchmark::benchmark"
    "CLI/=CLI11::CLI11"
    "fmt/=fmt::fmt"
    "boost/=Boost::headers"
    "xtl/=xtensor"
    "xtensor/=xtensor")

# Sets `out` to the targets that `file` needs beyond srformer::srformer, following <srformer/...> and "..." includes.
# What it includes inside #if is linked where it exists, and done without where not. A third argument is set to the
# names of all headers that it includes in any case.
function(srformer_needs file out)
  set(needs)
  set(names)
  set(queue "${file}")
  set(conditional)
  set(seen)
  while(queue OR conditional)
    if(queue)
      set(depth 0)
      list(POP_FRONT queue current)
    else()
      set(depth 1)
      list(POP_FRONT conditional current)
    endif()
    if(current IN_LIST seen)
      continue()
    endif()
    list(APPEND seen "${current}")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${current}")
    get_filename_component(here "${current}" DIRECTORY)
    file(STRINGS "${current}" lines REGEX "^[ \t]*#[ \t]*(if|endif|include[ \t]*[<\"])")
    foreach(line IN LISTS lines)
      if(line MATCHES "#[ \t]*if")
        math(EXPR depth "${depth} + 1")
      elseif(line MATCHES "#[ \t]*endif")
        math(EXPR depth "${depth} - 1")
      elseif(line MATCHES "include[ \t]*[<\"]([^>\"]+)[>\"]")
        set(name "${CMAKE_MATCH_1}")
        if(depth EQUAL 0)
          list(APPEND names "${name}")
        endif()
        foreach(folder IN ITEMS "${srformer_include_dir}" "${here}" "${PROJECT_SOURCE_DIR}/tests")
          if(EXISTS "${folder}/${name}")
            get_filename_component(included "${folder}/${name}" ABSOLUTE)
            if(depth EQUAL 0)
              list(APPEND queue "${included}")
            else()
              list(APPEND conditional "${included}")
            endif()
            break()
          endif()
        endforeach()
        foreach(rule IN LISTS SRFORMER_INCLUDE_TARGETS)
          string(REGEX MATCH "^(.*)=(.*)$" whole "${rule}")
          set(prefix "${CMAKE_MATCH_1}")
          set(target "${CMAKE_MATCH_2}")
          string(FIND "${name}" "${prefix}" at)
          if(at EQUAL 0)
            if(depth EQUAL 0 OR TARGET ${target})
              list(APPEND needs "${target}")
            endif()
            break()
          endif()
        endforeach()
      endif()
    endforeach()
  endwhile()
  list(REMOVE_DUPLICATES needs)
  set(${out} "${needs}" PARENT_SCOPE)
  if(ARGC GREATER 2)
    set(${ARGV2} "${names}" PARENT_SCOPE)
  endif()
endfunction()

# Splits `files` into those that can be built here (`out_files`, which together need `out_targets`) and the rest,
# which are named in one status line each.
function(srformer_buildable out_files out_targets)
  set(kept)
  set(targets)
  foreach(file IN LISTS ARGN)
    srformer_needs("${file}" needs)
    set(missing)
    foreach(target IN LISTS needs)
      if(NOT TARGET ${target})
        list(APPEND missing "${target}")
      endif()
    endforeach()
    if(missing)
      file(RELATIVE_PATH name "${PROJECT_SOURCE_DIR}" "${file}")
      list(JOIN missing ", " missing)
      message(STATUS "Not built, for want of ${missing}: ${name}")
    else()
      list(APPEND kept "${file}")
      list(APPEND targets ${needs})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES targets)
  set(${out_files} "${kept}" PARENT_SCOPE)
  set(${out_targets} "${targets}" PARENT_SCOPE)
endfunction()
