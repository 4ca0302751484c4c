// SPDX-License-Identifier: Apache-2.0
// The models that most tests use.
#include "models/tiny_bart.hpp"
#include "models/tiny_t5.hpp"

template class srformer::EncoderDecoder<srformer::EigenBackend, double>;
template class srformer::T5<srformer::EigenBackend, double>;
template class srformer::Bart<srformer::EigenBackend, double>;
