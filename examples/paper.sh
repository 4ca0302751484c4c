#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The paper's tables on real data: see examples/paper/main.py, or --help.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/paper/main.py" "$@"
