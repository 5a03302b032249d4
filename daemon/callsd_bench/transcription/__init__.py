# SPDX-License-Identifier: Apache-2.0
"""`callsd bench transcription`: calls after they have ended."""
