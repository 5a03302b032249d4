# SPDX-License-Identifier: Apache-2.0
"""What must survive: jobs, their reservations and every change to them, in one SQLite database."""
