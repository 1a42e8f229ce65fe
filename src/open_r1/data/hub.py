"""Push a finished dataset to the Hugging Face hub; without a login or a network it stays in its folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import RecipeError


def check_push(repo_id: str | None) -> str | None:
    """Check before a dataset is made whether it can be pushed.

    Args:
        repo_id: `hub_dataset_id` of the recipe; None pushes nothing.

    Returns:
        A warning if there is no login or the hub cannot be reached, which does not stop the run; else None.

    Raises:
        RecipeError: `repo_id` is not a valid name of a repository.
    """
    if repo_id is None:
        return None
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RecipeError(
            f"hub_dataset_id: {repo_id!r} is not the name of a repository, e.g. my-name/my-dataset"
        ) from error
    reason = _find_obstacle()
    return None if reason is None else f"hub_dataset_id: {reason}; the dataset will stay in its folder"


def push_dataset(folder: Path, repo_id: str, private: bool = False) -> str:
    """Upload the files and the card of a dataset.

    Args:
        folder: the `data` folder of a finished run.
        repo_id: repository, which is created if missing.
        private: create it as a private repository.

    Returns:
        A line for the user: the address, or why the dataset was not pushed and how to push it later.
    """
    import httpx2
    from huggingface_hub import HfApi

    reason = _find_obstacle()
    if reason is None:
        api = HfApi()
        try:
            repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            if private and not api.dataset_info(repo.repo_id).private:
                # `private` does not change an existing repository, and private data must not become public.
                return f"hub_private: {repo} is public already, so nothing was pushed; the dataset is in {folder}"
            # Files of an earlier, larger version must not stay among the rows.
            api.upload_folder(
                repo_id=repo.repo_id,
                folder_path=folder,
                repo_type="dataset",
                ignore_patterns=[".*"],
                delete_patterns=["train-*.parquet"],
                commit_message="Dataset and card by open-r1",
            )
            return f"pushed to {repo}"
        except (httpx2.HTTPError, OSError) as error:
            reason = f"the hub refused the upload ({_read_first_line(error)})"
    return (
        f"hub_dataset_id: {reason}; the dataset is in {folder}. Push it later with: "
        f"hf upload {repo_id} {folder} --repo-type dataset{' --private' if private else ''}"
    )


def _find_obstacle() -> str | None:
    """Why this machine cannot push to the hub; None if it can."""
    import httpx2
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import HfHubHTTPError

    if get_token() is None:
        return "there is no login (make one with: hf auth login)"
    try:
        HfApi().whoami()
    except (httpx2.HTTPError, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            return f"the hub refuses the login ({_read_first_line(error)})"
        return f"the hub cannot be reached ({_read_first_line(error)})"
    return None


def _read_first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
