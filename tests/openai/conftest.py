from collections.abc import Callable
from pathlib import Path

import pytest

from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.openai.service import OpenAIService
from basemlx.engine.text.tokenizer import Tokenizer
from tests.model_zoo import write_tokenizer
from tests.openai.playback import PlaybackEngine, PlayedModel, Script


@pytest.fixture(scope="session")
def played_model(tmp_path_factory: pytest.TempPathFactory) -> PlayedModel:
    folder: Path = tmp_path_factory.mktemp("played")
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_folder(folder)
    return PlayedModel(tokenizer, ChatTemplate.from_folder(folder, tokenizer))


@pytest.fixture
def play(played_model: PlayedModel) -> Callable[..., tuple[PlaybackEngine, OpenAIService]]:
    """play("text") is an engine that says so, and the service before it."""

    def make(says: str | Script, model: PlayedModel = played_model) -> tuple[PlaybackEngine, OpenAIService]:
        script: Script = (lambda request, choice: says) if isinstance(says, str) else says
        engine = PlaybackEngine(model, script)
        return engine, OpenAIService(engine, clock=lambda: 1_700_000_123.9)

    return make
