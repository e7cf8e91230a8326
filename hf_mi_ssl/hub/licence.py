"""The licence of a data set, from its page on the Hub."""

from huggingface_hub import HfApi

from .text import hub_id, public


def dataset_license(name: str) -> str | None:
    """The licence that the Hub names for the data set `name`; None for other data, without one, or out of reach.

    `datasets` does not read it: `DatasetInfo.license` is empty for data sets without a loading script.
    """
    if not hub_id(public(name)):
        return None
    try:
        data = HfApi().dataset_info(name, timeout=10).card_data
    except Exception:  # whatever it is, a missing line on a card is no reason to lose a run
        return None
    licence = data.get("license") if data else None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence
