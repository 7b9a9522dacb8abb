"""The data sources; this union is their registry."""

from typing import Annotated

from pydantic import Field

from finetune.data.digits import Digits
from finetune.data.hub import HubData
from finetune.data.image_folder import ImageFolder
from finetune.data.intents import Intents
from finetune.data.table import TableData
from finetune.data.text_files import TextFiles

AnyData = Annotated[
    Digits | HubData | ImageFolder | Intents | TableData | TextFiles, Field(discriminator="kind")
]

__all__ = ["AnyData", "Digits", "HubData", "ImageFolder", "Intents", "TableData", "TextFiles"]
