"""What a run predicts, bound to its data: the encoding, the loss, the predictions, the scores.

Nothing here knows a library or a model. Losses are one number for each sample; whoever adds them up
divides by the sum of `weights`, so that a mean over a batch does not depend on how the batch was
cut. A prediction and the truth of it are told row by row, first axis the rows.
"""

from finetune.targets.classes import Classes
from finetune.targets.generated import Generated
from finetune.targets.label_sets import LabelSets
from finetune.targets.next_token import NextToken
from finetune.targets.numbers import Numbers
from finetune.targets.spans import Spans
from finetune.targets.tags import Tags

__all__ = ["Classes", "Generated", "LabelSets", "NextToken", "Numbers", "Spans", "Tags"]
