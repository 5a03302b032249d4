# SPDX-License-Identifier: Apache-2.0
"""What callsd does at a Mattermost site, as the bot of its Calls plugin."""
