# SPDX-License-Identifier: Apache-2.0
"""Records a web page, its picture and its sound, into files that survive any crash."""
