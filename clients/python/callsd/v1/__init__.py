# SPDX-License-Identifier: Apache-2.0
"""Generated from `proto/callsd/v1/*.proto` by `make gen`: do not edit."""
