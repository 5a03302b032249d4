# SPDX-License-Identifier: Apache-2.0
"""`callsd captions`: sound on its way to a daemon, captions on their way back."""
