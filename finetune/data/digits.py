"""scikit-learn's handwritten digits: always there, no network."""

from __future__ import annotations

import io
from typing import Literal

from finetune.data.base import DataSource, Raw


class Digits(DataSource):
    """1,797 handwritten digits, 8 x 8 greyscale (Alpaydin and Kaynak 1998, UCI)."""

    kind: Literal["digits"] = "digits"

    def read(self) -> Raw:
        """Return all digits as one table of PNG images; 20 % each are held out by default."""
        from datasets import ClassLabel, Dataset, Features, Image
        from PIL import Image as Pillow
        from sklearn.datasets import load_digits

        digits = load_digits()
        cells = []
        for pixels in digits.images:
            stream = io.BytesIO()
            # 17 grey levels, 0 to 16.
            Pillow.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(stream, "PNG")
            cells.append({"path": None, "bytes": stream.getvalue()})
        names = [str(name) for name in digits.target_names]
        table = Dataset.from_dict(
            {"image": cells, "label": digits.target.tolist()},
            features=Features(image=Image(decode=False), label=ClassLabel(names=names)),
        )
        source = {"name": "scikit-learn digits", "license": "cc-by-4.0"}
        return Raw({"train": table}, source, shares=(0.2, 0.2))
