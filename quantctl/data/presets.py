"""What is known about published corpora: where the text is, which files are shards, which documents people drop."""

from __future__ import annotations

from dataclasses import dataclass, field

from quantctl.data.filters import Filters


@dataclass(frozen=True)
class Preset:
    """Defaults of `data prepare`; an option that is given wins."""

    name: str
    title: str
    text_field: str = "text"
    """The field or column that holds a document's text."""
    shards: tuple[str, ...] = ("**/*",)
    """Globs of the shards below a folder, of which those with a known ending count."""
    filters: Filters = field(default_factory=Filters)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("plain", "any text"),
        Preset(
            "wikipedia",
            "Wikipedia: wikimedia/wikipedia's parquet shards, or WikiExtractor's JSON lines",
            shards=("**/*.parquet", "**/*.jsonl*", "**/*.json*", "**/wiki_[0-9][0-9]"),
            # an article below this is a redirect, a stub of one sentence or a title without text
            filters=Filters(min_chars=200, disambiguation=True),
        ),
        Preset(
            "dolma",
            "Dolma: the .json.gz shards of each source",
            shards=("**/*.json.gz", "**/*.jsonl.gz", "**/*.json.zst", "**/*.jsonl.zst"),
            filters=Filters(min_chars=50),
        ),
    )
}
"""Name -> preset."""
