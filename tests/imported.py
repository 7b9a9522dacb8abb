"""Imports, once, what a training run imports: children forked from here start at once."""

import datasets
import evaluate
import peft
import sklearn.linear_model
import sklearn.metrics
import timm
import torchvision.transforms.v2
import toy

import finetune.api
import finetune.boundary
import finetune.command
import finetune.extraction
import finetune.loop
import finetune.outcome

__all__ = ["datasets", "evaluate", "finetune", "peft", "sklearn", "timm", "torchvision", "toy"]
