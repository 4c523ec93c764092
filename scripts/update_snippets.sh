#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# scripts/update_docs.py under its former name.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/update_docs.py" "$@"
