# SPDX-License-Identifier: Apache-2.0
"""Records a web page: its picture and its sound, as a file that is always there."""
