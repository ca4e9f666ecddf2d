"""The only file of this folder that Airflow runs as a plugin, in every process: for a Perennial that is not installed.

An installed one (the demo's, the image's, a wheel) registers itself; a plugin that comes twice is an error.
"""

from __future__ import annotations

from perennial_airflow import plugin

if not plugin.is_registered():
    PerennialPlugin = plugin.PerennialPlugin
