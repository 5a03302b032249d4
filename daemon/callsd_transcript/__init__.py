# SPDX-License-Identifier: Apache-2.0
"""A transcript and the files it goes into: the same for the worker's and for the daemon's."""
