// SPDX-License-Identifier: Apache-2.0
#include "all.hpp"

report report_of_other() { return make_report(); }
