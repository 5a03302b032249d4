# SPDX-License-Identifier: Apache-2.0
"""`callsd bench repetition`: what is said again stays, and what is not said is not shown."""
