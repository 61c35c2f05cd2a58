"""A controller's files on the hub: what is sent, and what is fetched. Weights are safetensors, nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalTokenNotFoundError

from plasticity_env.common.digests import MANIFEST
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import write_text
from plasticity_env.common.hub import answers, hub_or_cache
from plasticity_env.common.values import user_path
from plasticity_env.controllers.controller_card import controller_card

WEIGHTS, CONFIG = "controller.safetensors", "controller.json"
FILES = (CONFIG, WEIGHTS, MANIFEST)


class HubController(ModelHubMixin, library_name="plasticity-env", tags=["plasticity-env"]):
    """What a saved controller needs to be sent to the hub and fetched from there; `ANNController` is one."""

    def push_to_hub(  # type: ignore[override]  # a card of ours
        self,
        repo_id: str,
        *,
        run: str | Path | None = None,
        results: str | Path | None = None,
        **options: Any,
    ) -> str:
        """Send weights, description and card to the hub.

        Args:
            repo_id: ``USER/NAME``; made if it is not there.
            run: Folder of the training, for the card.
            results: ``results.json`` of ``plasticity evaluate``, for the card.
            **options: Options of `huggingface_hub.ModelHubMixin.push_to_hub`: ``private``, ``token``, ``branch``, ...

        Returns:
            Address of the commit.

        Raises:
            InputError: A run or results that cannot be read (nothing is sent), or a hub that does not answer or refuses.
        """
        card = {"repo": repo_id, "run": run, "results": results}
        self.generate_model_card(**card)  # what it cannot read is an error before anything is sent
        with _said(f"cannot push to {repo_id!r}"):
            if constants.is_offline_mode():
                raise InputError(f"cannot push to {repo_id!r}: HF_HUB_OFFLINE is set, so unset it")
            if not answers(constants.ENDPOINT):
                raise InputError(
                    f"cannot push to {repo_id!r}: the hub at {constants.ENDPOINT} does not answer; check the network or "
                    "HF_ENDPOINT"
                )
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **options))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:  # type: ignore[override]
        """Load a controller from the hub or from a folder.

        Args:
            pretrained_model_name_or_path: ``USER/NAME`` or a folder.
            **options: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only`` of the hub; ``sparsity``,
                ``rounds`` and ``deterministic`` of the controller.

        Raises:
            InputError: No controller there, a hub that does not answer, or files that are damaged.
        """
        name = str(pretrained_model_name_or_path)
        if (folder := user_path(name)).is_dir():
            hub = {"revision", "token", "cache_dir", "force_download", "local_files_only"}
            return cls.load(folder, **{key: value for key, value in options.items() if key not in hub})  # type: ignore[attr-defined]
        with _said(f"cannot load a controller from {name!r}"), hub_or_cache():
            return super().from_pretrained(pretrained_model_name_or_path, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that is written beside the weights; see `controller_card` for the arguments."""
        return ModelCard(controller_card(self.network.config, self.info, **{"repo": "FOLDER", **kwargs}))  # type: ignore[attr-defined]

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)  # type: ignore[attr-defined]
        described = {
            "library_name": "plasticity-env",
            "controller": CONFIG,
        }  # the file by which the hub counts downloads
        write_text(save_directory / constants.CONFIG_NAME, json.dumps(described, indent=1) + "\n")

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> Any:
        places = [
            Path(
                hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
            for name in FILES
        ]
        return cls.load(places[0].parent, **options)  # type: ignore[attr-defined]


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say in one sentence what the hub's client raises."""
    try:
        yield
    except EntryNotFoundError as error:
        raise InputError(
            f"{what}: it holds no {' or '.join((CONFIG, WEIGHTS))}, or the hub at {constants.ENDPOINT} does not answer and "
            f"nothing is cached ({first_line(error)})"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{what}: give USER/NAME or a folder ({first_line(error)})") from error
    except LocalTokenNotFoundError as error:
        raise InputError(f"{what}: no token is stored; run 'hf auth login' or set HF_TOKEN") from error
    except (OSError, ConnectionError) as error:  # the client's HTTP errors are OSErrors
        if type(error) in (OSError, PermissionError):  # a disk's: it names its path
            raise
        raise InputError(
            f"{what}: the hub at {constants.ENDPOINT} refused or broke off ({first_line(error)})"
        ) from error
