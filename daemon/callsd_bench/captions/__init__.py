# SPDX-License-Identifier: Apache-2.0
"""`callsd bench captions`: calls while they go on."""
