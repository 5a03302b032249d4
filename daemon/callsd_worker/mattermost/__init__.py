# SPDX-License-Identifier: Apache-2.0
"""A participant in calls of Mattermost's Calls plugin, which sees and hears and is not seen."""
