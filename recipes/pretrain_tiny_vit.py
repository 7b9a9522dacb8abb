"""A tiny ViT from random weights on CIFAR-10: the recipe behind the backbone `tiny-vit`.

40,000 of the 50,000 training images teach; the other 10,000 are kept for whoever fine-tunes the
result on CIFAR-10, and 2,000 of them choose here. The test split is looked at once.

Expected: accuracy 0.832 (95 % interval 0.824 to 0.839, n = 10,000) on the test split of a JPEG copy
of CIFAR-10, one run, 86 minutes on one CPU core in bfloat16; the range over seeds is not measured.
Source: Dosovitskiy et al. 2020, arXiv:2010.11929, at a size for small images.
"""

from finetune import Augmentation, Full, HubData, ImageClassification, Recipe, Timm, Train

recipe = Recipe(
    name="pretrain-tiny-vit",
    backbone=Timm(
        name="vit_tiny_patch16_224",
        weights="none",
        img_size=32,
        args={
            "patch_size": 4,
            "embed_dim": 192,
            "depth": 6,
            "num_heads": 3,
            "class_token": False,
            "global_pool": "avg",
            # Images are seen whole; the name and licence of other weights are not ours.
            "pretrained_cfg_overlay": {"crop_pct": 1.0, "tag": "cifar10", "license": None},
        },
    ),
    data=HubData(
        "uoft-cs/cifar10",
        image="img",
        label="label",
        train="train[:40000]",
        validation="train[40000:42000]",
    ),
    task=ImageClassification(augmentation=Augmentation(crop="pad", rand_augment=1, magnitude=9)),
    method=Full(),
    train=Train(
        epochs=32,
        batch_size=128,
        eval_batch_size=250,
        optimizer="muon",
        lr=2e-3,
        warmup=0.05,
        weight_decay=0.05,
        label_smoothing=0.1,
        precision="bf16",
    ),
)
