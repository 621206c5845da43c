"""What Gradio keeps of a session, less what nothing here reads.

Gradio copies the configuration of every component for each session, a megabyte, so that a deep link could be made of it,
and keeps it until 10,000 other sessions came. The studio has no deep links: here a session is its states and the components
that a run has changed, and `demos/core/readers.py` forgets it when nobody is there any more.

Nor is a configuration made twice: Gradio makes that of every component five times until a page is served, and again of each
component that a message of a run changes, its JSON schema included.
"""

from __future__ import annotations

import os
from copy import copy
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block, BlocksConfig
from gradio.renderable import Renderable
from gradio.state_holder import SessionState, StateHolder

if TYPE_CHECKING:
    from demos.core.page_state import Sheet

SESSION_BYTES = 2**20
"""A generous guess at what the page of a busy visitor holds: measured are a few hundred KiB."""


def capacity() -> int:
    """How many sessions may be held: a twentieth of the machine's memory, 64 to 4096."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 4 * 2**30
    return min(max(memory // 20 // SESSION_BYTES, 64), 4096)


class Config(BlocksConfig):
    """Of a page whose components stay what they were made as, or of one of its sessions."""

    def __init__(self, root_block: gr.Blocks) -> None:
        super().__init__(root_block)
        self.told: dict[int, dict[str, Any]] = {}

    def __copy__(self) -> Config:
        new = Config(self.root_block)
        vars(new).update(vars(super().__copy__()))
        new.told = self.told
        return new

    def config_for_block(  # type: ignore[override]  # Gradio's is static
        self, _id: int, rendered_ids: list[int], block: Block, renderable: Renderable | None = None
    ) -> dict[str, Any]:
        """Made once of what is on the page; nothing of what a session has changed."""
        if self.root_block.blocks.get(_id) is not block:
            return {}
        if _id not in self.told:
            self.told[_id] = super().config_for_block(_id, rendered_ids, block, renderable)
        return self.told[_id]


class SlimState(SessionState):
    """A session without copies of what did not change."""

    sheet: Sheet | None = None
    """What is kept of the page that this session shows."""
    versions: dict[int, int]
    """Of the states that it was given: what they were then."""

    @classmethod
    def like(cls, template: SlimState) -> SlimState:
        """A new one; `template` is that of the page, made once."""
        fresh = copy(template)
        for name, value in vars(fresh).items():
            setattr(fresh, name, value if value is template.shared else copy(value))
        return fresh

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(blocks)
        self.config_values = {}
        self.shared = self.blocks_config

    def __setitem__(self, key: int, value: gr.blocks.Block) -> None:
        before = self.shared.blocks.get(key)
        if before is None or not before.stateful:
            if self.blocks_config is self.shared:
                self.blocks_config = copy(self.shared)
            if before is not None:
                value.temp_files = before.temp_files  # so that its files are removed with all others
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: object) -> None:
        pass


class SlimStates(StateHolder):
    """All sessions of a page."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__()
        self.template = SlimState(blocks)
        self.set_blocks(blocks)

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = SlimState.like(self.template)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """Let go of a session's states, with the call-backs that were asked for."""
        self.delete_state(session_id)
        self.session_data.pop(session_id, None)
        self.time_last_used.pop(session_id, None)
