"""T5-small from German to English on Multi30k, descriptions of photos.

Expected: not measured.
Source: Raffel et al. 2020, T5, arXiv:1910.10683; Elliott et al. 2016, Multi30K, arXiv:1605.00459.
"""

from finetune import Full, HubData, Recipe, TextToText, Train, Transformers

recipe = Recipe(
    name="t5-translate",
    backbone=Transformers(name="google-t5/t5-small", max_length=128),
    data=HubData(path="bentrevett/multi30k", source="de", target="en"),
    task=TextToText(prefix="translate German to English: ", max_new_tokens=64),
    method=Full(),
    train=Train(epochs=3, batch_size=64, lr=1e-3, schedule="linear", warmup=0.05, weight_decay=0.0),
)
