# SPDX-License-Identifier: Apache-2.0
"""Live captions: calls, the captioners that serve them, and their journals and logs."""
