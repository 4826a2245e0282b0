"""Released models on the hub of Hugging Face, or another one that HF_ENDPOINT names."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError

from calm.inference.classifier import check_folder

FAULTS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError, OSError)


class HubError(ValueError):
    """The hub cannot be reached, or refuses. The message is one sentence."""


def download(name: str) -> Path:
    """Folder of the model OWNER/NAME, from the cache if it is there. Raises HubError."""
    try:
        return Path(snapshot_download(name))
    except FAULTS as error:
        raise HubError(_reason(error)) from None


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload a released model with its card to OWNER/NAME, which is made if it is not there; returns its address.

    Needs a token that may write: `hf auth login`, or the environment variable HF_TOKEN.

    Raises ValueError if the folder has no released model, and HubError if the hub cannot be reached or refuses.
    """
    api, folder = HfApi(), check_folder(folder)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A released model", ignore_patterns=[".*"])
    except FAULTS as error:
        raise HubError(f"{folder} is not on the hub as {name}: {_reason(error)}") from None
    return str(address)


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
