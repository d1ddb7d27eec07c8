from __future__ import annotations

from pathlib import Path

from smartpay_assistant.settings import AssistantSettings
from smartpay_chassis.settings import ServiceSettings

README = Path(__file__).parents[1] / "README.md"


def test_every_setting_is_documented_with_its_default() -> None:
    lines = README.read_text().splitlines()
    own = AssistantSettings.model_fields.keys() - ServiceSettings.model_fields.keys()

    for name in own:
        setting = AssistantSettings.model_fields[name]
        (line,) = [ln for ln in lines if ln.startswith(f"| `{setting.validation_alias}`")]
        if not setting.is_required():
            assert f"| {setting.default} |" in line
        assert setting.description is not None


def test_names_that_are_reserved_are_not_read() -> None:
    aliases = {str(f.validation_alias) for f in AssistantSettings.model_fields.values()}

    assert aliases.isdisjoint({"OPENAI_API_KEY", "OPENSEARCH_ENDPOINT"})
