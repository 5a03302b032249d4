# SPDX-License-Identifier: Apache-2.0
"""Where somebody speaks: voice, its level, utterances, and the windows that engines get."""
