"""Every core configuration key: its meaning, its unit, its default and where the default comes from.

Names say their units (``NUM_FRAMES``, ``MAX_ITER``), or the comment does. A key of a project is not here: the project
adds it in its own ``add_config(cfg)``. Section and table numbers are those of
"Non-local Neural Networks" (Wang, Girshick, Gupta, He, CVPR 2018); "authors" is their released Caffe2 code.
"""

from nlvideo.config.node import CfgNode as CN

_C = CN()

# The version of these keys. A config of another version is refused.
_C.VERSION = 1
# Folder for checkpoints, logs, metrics and the dumped config, here or in object storage. Created if missing.
_C.OUTPUT_DIR = "./output"
# Seed of everything random. -1: drawn from the clock and logged. Two runs with one seed see the same clips in order.
_C.SEED = 0
# Projects to load before the rest of the config is merged: a path (relative to the YAML that lists it), an importable
# module, or a name in the entry-point group "nlvideo.plugins".
_C.PLUGINS = []
# Names in WRITER: who shows and saves the scalars of a run. "WandbWriter" and "MLflowWriter" send them to a tracker.
_C.WRITERS = ["ConsoleWriter", "JSONWriter", "TensorBoardWriter"]

# Model
_C.MODEL = CN()
# A name in META_ARCH.
_C.MODEL.META_ARCHITECTURE = "VideoClassifier"
# "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
_C.MODEL.DEVICE = "auto"
# Weights to start from: a path or URL, "torchvision://resnet50", "hf://user/name" of the Hugging Face hub, or a network
# of the authors' release such as "i3d_nonlocal_32x2_IN_pretrain_400k"; other frameworks' files are converted
# (docs/weights.md). "": random.
_C.MODEL.WEIGHTS = ""
# Per-channel RGB statistics on the 0..255 scale, one or three values (authors: 114.75 and 57.375 for every channel).
_C.MODEL.PIXEL_MEAN = [114.75, 114.75, 114.75]
_C.MODEL.PIXEL_STD = [57.375, 57.375, 57.375]
# "BN" (enabled while fine-tuning, Sec. 4.1), "SyncBN" (statistics over all ranks), "FrozenBN" (buffers; the 128-frame
# recipe).
_C.MODEL.NORM = "BN"
# Keep clips and weights with their channels adjacent in memory (torch.channels_last_3d): the same numbers to rounding,
# and on a CPU about 1.3 times as fast in a small network, 0.96 to 1.13 times in NL I3D-R50 (not measured on a GPU).
_C.MODEL.CHANNELS_LAST = True

_C.MODEL.BACKBONE = CN()
# A name in BACKBONE.
_C.MODEL.BACKBONE.NAME = "ResNet3d"
# [name, value] pairs: arguments that only the backbone named takes; its docstring has them.
_C.MODEL.BACKBONE.ARGS = []
# The network of TorchvisionVideo: "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t",
# "swin3d_s" or "swin3d_b". It takes FREEZE_AT; the other keys of this section are of ResNet3d and TSM. SlowFast takes
# them but for TEMPORAL and STEM.
_C.MODEL.BACKBONE.ARCH = ""
# 10, 18 (basic blocks), 50, 101 or 152 (bottlenecks).
_C.MODEL.BACKBONE.DEPTH = 50
# Every channel count is multiplied by this and rounded to a multiple of 8; below 1 for small machines.
_C.MODEL.BACKBONE.WIDTH = 1.0
# "c2d" (no temporal kernels, Table 1), "i3d_3x1x1" or "i3d_3x3x3" (Sec. 4, one inflated kernel in two blocks); of
# other zoos: "i3d_3x1x1_all" (in every block) and "slow" (in those of res4 and res5, and none in the stem).
_C.MODEL.BACKBONE.TEMPORAL = "c2d"
# "paper" (Table 1: strides 2,2,2 and 2,2,2), "authors_32x2" (the same without padding in the pools), "authors_8x8" (no
# temporal stride before res2), "small" (3x3 instead of 7x7, time halved by the first pool: for frames below ~100 px);
# of other zoos: "slowfast_8x8", "slow" (time is never halved), "mmaction2_32x2".
_C.MODEL.BACKBONE.STEM = "paper"
# Number of stages, counted from the stem, that do not train: 0 none, 1 the stem, 2 stem and res2, ... 5 all.
_C.MODEL.BACKBONE.FREEZE_AT = 0
# The iteration from which they train after all. 0: never.
_C.MODEL.BACKBONE.FREEZE_UNTIL = 0
# The spatial stride of a bottleneck sits in its first 1x1 (MSRA weights) or in its 3x3 (authors, torchvision).
_C.MODEL.BACKBONE.STRIDE_IN_1X1 = False
# The last norm of each residual branch starts with zero weight (authors' BN_INIT_GAMMA 0).
_C.MODEL.BACKBONE.ZERO_INIT_RESIDUAL = True

_C.MODEL.NONLOCAL = CN()
# With False there is no non-local block, whatever the other keys say. With True and no resulting block: an error.
_C.MODEL.NONLOCAL.ENABLED = False
# A name in NONLOCAL.
_C.MODEL.NONLOCAL.NAME = "NonLocalBlock"
# [name, value] pairs: arguments that only the block named takes, e.g. [["num_heads", 8]]; docs/nonlocal.md has them.
_C.MODEL.NONLOCAL.ARGS = []
# Stages that get a block after every EVERY-th residual block: res3 + res4 and 2 are the usual five blocks (Table 2c);
# the deeper res4 of R101 follows the authors' spacing, so that it gets three as well.
_C.MODEL.NONLOCAL.STAGES = ["res3", "res4"]
_C.MODEL.NONLOCAL.EVERY = 2
# Exact places instead of STAGES and EVERY, e.g. ["res4.4"]: after the fifth residual block of res4. TorchvisionVideo
# takes these alone, as names of torchvision's sub-modules: ["layer3.1"].
_C.MODEL.NONLOCAL.BLOCKS = []
# "gaussian", "embedded_gaussian", "dot_product" or "concatenation" (Sec. 3.2).
_C.MODEL.NONLOCAL.PAIRWISE = "embedded_gaussian"
# "space", "time" or "spacetime" (Table 2d).
_C.MODEL.NONLOCAL.ATTEND = "spacetime"
# Attention stays inside T / groups consecutive frames, in the stages named ([]: all of them; authors: 4 in the res3 of
# 128-frame models).
_C.MODEL.NONLOCAL.TEMPORAL_GROUPS = 1
_C.MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES = []
# Keys and values are max-pooled 1x2x2 (Sec. 3.3), before the 1x1x1 convolutions (authors) or after them (the paper's
# words, mmcv).
_C.MODEL.NONLOCAL.SUBSAMPLE = True
_C.MODEL.NONLOCAL.POOL_FIRST = True
# Softmax logits times inner_channels ** -0.5 (authors); False is the paper's text.
_C.MODEL.NONLOCAL.SCALE = True
# Norm after the output convolution: "same" as MODEL.NORM, "BN", "SyncBN", "FrozenBN" or "none" (the 128-frame recipe).
_C.MODEL.NONLOCAL.NORM = "same"
# The block starts as the identity: zero norm weight, or a zero output convolution where there is no norm (Sec. 4.1).
_C.MODEL.NONLOCAL.ZERO_INIT = True
# Standard deviation of the block's convolutions (authors 0.01); 0: the He et al. initialisation (Sec. 4.1).
_C.MODEL.NONLOCAL.INIT_STD = 0.01
# "auto", "dense", or an exact algorithm that keeps no matrix: "fused" (all forms), "reordered" or "folded" (dot
# product), "sorted" (concatenation).
_C.MODEL.NONLOCAL.ALGORITHM = "auto"
# Keep nothing of a block for the backward pass but its input and its norm's, and compute the rest once more there.
_C.MODEL.NONLOCAL.CHECKPOINT = False

_C.MODEL.HEAD = CN()
# A name in HEAD.
_C.MODEL.HEAD.NAME = "PoolLinearHead"
# [name, value] pairs: arguments that only the head named takes, e.g. [["num_queries", 4]]; its docstring has them.
_C.MODEL.HEAD.ARGS = []
# 0: as many as the training data has (docs/config.md).
_C.MODEL.HEAD.NUM_CLASSES = 400
# Dropout after global pooling (Sec. 4.1).
_C.MODEL.HEAD.DROPOUT = 0.5
# "softmax" (one label) or "sigmoid" (any number of labels; Charades, Sec. 5.2).
_C.MODEL.HEAD.LOSS = "softmax"
# Standard deviation of the classifier (authors' FC_INIT_STD).
_C.MODEL.HEAD.INIT_STD = 0.01
# Share of every label that is spread evenly over all classes, in training (Szegedy et al., CVPR 2016: 0.1).
_C.MODEL.HEAD.LABEL_SMOOTHING = 0.0
# Factors on the losses of the classes: None, one number above 0 for each class, or "balanced": the mean number of
# training videos of a class over its own (docs/config.md). With "sigmoid", factors on the loss of yes.
_C.MODEL.HEAD.CLASS_WEIGHTS = None
# Exponent of the focal loss (Lin et al., ICCV 2017: 2). 0: cross-entropy.
_C.MODEL.HEAD.FOCAL_GAMMA = 0.0

# Input
_C.INPUT = CN()
# A clip is NUM_FRAMES frames, FRAME_STRIDE apart (Sec. 4.1: 32 of 64 consecutive frames).
_C.INPUT.NUM_FRAMES = 32
_C.INPUT.FRAME_STRIDE = 2
# Frames per second that clips are made of: frames are FRAME_STRIDE / FPS seconds apart, whatever the rate of a file,
# by its timestamps. 0: every frame counts, whatever the rate. "SegmentClip", which has no stride, ignores it.
_C.INPUT.FPS = 0.0
# Training clips are resized so that the short side is uniform in this range, then cropped at random (pixels; Sec. 4.1).
_C.INPUT.SHORT_SIDE_RANGE = [256, 320]
_C.INPUT.CROP_SIZE = 224
_C.INPUT.FLIP_PROB = 0.5
# A name in CLIP_SAMPLER: "RandomClip" or "SegmentClip" (one frame from each of NUM_FRAMES equal segments).
_C.INPUT.CLIP_SAMPLER = "RandomClip"
# What a clip does past the end of a video: "wrap" (start again; authors), "clamp" (repeat the last frame), "error".
_C.INPUT.SHORT_VIDEO = "wrap"
# Clips cut from each decoded video, next to each other in the batch (repeated augmentation, Hoffer et al., CVPR 2020).
# CLIPS_PER_BATCH counts clips and must be a multiple.
_C.INPUT.REPEATED_CLIPS = 1

# docs/data.md has the order of what follows. All of it is off: the paper uses none.
# Share of the frame that a random box covers, which is then resized to CROP_SIZE, instead of SHORT_SIDE_RANGE and a
# square (random resized crop; [0.08, 1.0] is usual); []: off. And the range of its width / height.
_C.INPUT.CROP_AREA_RANGE = []
_C.INPUT.CROP_ASPECT_RANGE = [0.75, 1.3333]

_C.INPUT.COLOR_JITTER = CN()
# The largest changes: 0.4 draws a factor from 0.6 to 1.4; the hue's is a part of the circle, up to 0.5. 0: off.
_C.INPUT.COLOR_JITTER.BRIGHTNESS = 0.0
_C.INPUT.COLOR_JITTER.CONTRAST = 0.0
_C.INPUT.COLOR_JITTER.SATURATION = 0.0
_C.INPUT.COLOR_JITTER.HUE = 0.0

_C.INPUT.RAND_AUGMENT = CN()
# Operations per clip (usually 2 to 4; 0: off) and their magnitude, 0 to 30 (Cubuk et al., NeurIPS 2020).
_C.INPUT.RAND_AUGMENT.NUM_OPS = 0
_C.INPUT.RAND_AUGMENT.MAGNITUDE = 9.0

_C.INPUT.RANDOM_ERASING = CN()
# Probability that a box of a clip is covered with noise (Zhong et al., AAAI 2020; usually 0.25 to 0.5). 0: off.
_C.INPUT.RANDOM_ERASING.PROB = 0.0
# Share of the frame, and width / height (torchvision's defaults).
_C.INPUT.RANDOM_ERASING.AREA_RANGE = [0.02, 0.3333]
_C.INPUT.RANDOM_ERASING.ASPECT_RANGE = [0.3, 3.3]
# Share of the clip's frames, consecutive ones, in which the box is covered: [1.0, 1.0] is all of them.
_C.INPUT.RANDOM_ERASING.LENGTH_RANGE = [1.0, 1.0]

# Data
_C.DATASETS = CN()
# Names in the catalog, or "list:FILE" (lines "path label", or csv), or "folder:DIR" (one folder per class), or
# "wds:PATTERN" (shards, as "wds:train-{000000..000099}.tar").
_C.DATASETS.TRAIN = []
_C.DATASETS.TEST = []
_C.DATASETS.SPLIT = CN()
# Where TEST is empty: the share of the videos of each class that is taken from TRAIN for it, chosen by SEED. The lists
# are in OUTPUT_DIR/split, and a resumed run keeps them. 0: off.
_C.DATASETS.SPLIT.FRACTION = 0.0
_C.DATASETS.SPLIT.SEED = 0
# A column of the csv lists, such as one that says who is in a video: one group is never on both sides. "": none.
_C.DATASETS.SPLIT.GROUP = ""

_C.DATALOADER = CN()
# Processes that decode, per rank. 0: in the training process.
_C.DATALOADER.NUM_WORKERS = 4
# A name in SAMPLER: "TrainingSampler", "ClassBalancedSampler" or "RepeatFactorSampler"; for shards "TrainingSampler"
# means "ShardSampler".
_C.DATALOADER.SAMPLER = "TrainingSampler"
# RepeatFactorSampler: classes that a smaller share of the videos has are repeated (Gupta et al., CVPR 2019: 0.001, for
# 1230 classes; 1 / classes is usual for few).
_C.DATALOADER.REPEAT_THRESHOLD = 0.001
# ShardSampler: records over which those that follow each other in a shard are shuffled.
_C.DATALOADER.SHUFFLE_BUFFER = 4096
# A name in MAPPER.
_C.DATALOADER.MAPPER = "VideoMapper"
# What reads video files: "pyav" or "torchcodec" (its own package, which needs FFmpeg's libraries on the machine).
_C.DATALOADER.READER = "pyav"
# A video that takes longer than this to open, or to give its next frame, counts as one that does not decode. 0: never.
_C.DATALOADER.VIDEO_TIMEOUT_SEC = 60.0
# Most pixels of a frame, checked before it is decoded, and of all frames of a clip together, decoded or resized. A
# video with more counts as one that does not decode. 8192 x 8192, and 32 frames of 8K (3 GiB of RGB in each worker).
_C.DATALOADER.MAX_FRAME_PIXELS = 67108864
_C.DATALOADER.MAX_CLIP_PIXELS = 1073741824
# Folder that keeps what opening finds out about each video, so that it is not read every time. "": nowhere.
_C.DATALOADER.INDEX_DIR = ""
# A training run stops, listing them, once more than this fraction of the videos could not be decoded.
_C.DATALOADER.MAX_FAILED_FRACTION = 0.01

# Solver
_C.SOLVER = CN()
# "SGD" or "AdamW".
_C.SOLVER.OPTIMIZER = "SGD"
# PyTorch's fused form of it: the same update to rounding, in one pass over the weights.
_C.SOLVER.FUSED = True
# Clips per optimizer step over all ranks (Sec. 4.1: 8 GPUs x 8 clips).
_C.SOLVER.CLIPS_PER_BATCH = 64
_C.SOLVER.BASE_LR = 0.01
# Factor on the rate of all that is not the backbone.
_C.SOLVER.HEAD_LR_FACTOR = 1.0
# Factor on the rate of the last stage of the backbone; its square on that of the stage before, and so on to the stem
# (Clark et al., ICLR 2020: 0.8 or 0.9 for each layer).
_C.SOLVER.LAYER_DECAY = 1.0
# "step" (times GAMMA at each of STEPS) or "cosine" (to BASE_LR x END_LR_FACTOR at MAX_ITER).
_C.SOLVER.LR_SCHEDULE = "step"
_C.SOLVER.STEPS = [150000, 300000]
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.END_LR_FACTOR = 0.0
_C.SOLVER.MAX_ITER = 400000
# The schedule in epochs of the training data, in place of MAX_ITER. An epoch is as many clips as there are videos. The
# start of a run turns it into iterations, at least MIN_ITER, and its fractions into STEPS and WARMUP_ITERS (the default
# is the paper's 150k and 300k of 400k iterations). 0: off.
_C.SOLVER.MAX_EPOCHS = 0.0
_C.SOLVER.MIN_ITER = 0
_C.SOLVER.STEP_FRACTIONS = [0.375, 0.75]
_C.SOLVER.WARMUP_FRACTION = 0.0
# The rate grows linearly from WARMUP_FACTOR x to 1 x over this many iterations.
_C.SOLVER.WARMUP_ITERS = 0
_C.SOLVER.WARMUP_FACTOR = 0.1
# SGD.
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.NESTEROV = True
# AdamW.
_C.SOLVER.BETAS = [0.9, 0.999]
_C.SOLVER.WEIGHT_DECAY = 1e-4
# Weight decay of the weights and biases of norms (authors: 0); biases of convolutions decay like weights.
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0
# What BN normalises with while training: "unfrozen", the statistics of the batch (Sec. 4.1), or "frozen", the stored
# ones, while weights and biases train. "frozen_after" and "unfrozen_after": from iteration BN_MODE_ITER on.
_C.SOLVER.BN_MODE = "unfrozen"
_C.SOLVER.BN_MODE_ITER = 0
# The number of ranks that CLIPS_PER_BATCH, BASE_LR, MAX_ITER, STEPS, ... were written for: with another number they are
# scaled linearly. 0: never scale.
_C.SOLVER.REFERENCE_WORLD_SIZE = 0
# Forward and backward passes per optimizer step; CLIPS_PER_BATCH, scaled or not, is split among them.
_C.SOLVER.ACCUMULATE = 1
# Iterations between checkpoints and between log lines.
_C.SOLVER.CHECKPOINT_PERIOD = 5000
_C.SOLVER.LOG_PERIOD = 20
# How many of the checkpoints of CHECKPOINT_PERIOD stay, the latest; model_best and model_final always do. 0: all.
_C.SOLVER.CHECKPOINT_KEEP = 0

_C.SOLVER.EARLY_STOPPING = CN()
# End the run after this many evaluations in a row without a better one. The learning rate does not change. 0: never.
_C.SOLVER.EARLY_STOPPING.PATIENCE = 0
# What decides, also for model_best: "classification/top1", "classification/loss" (lower is better), ...; with several
# datasets "DATASET/classification/top1". "": the first metric of the evaluator.
_C.SOLVER.EARLY_STOPPING.METRIC = ""

_C.SOLVER.MIX = CN()
# Mixup (Zhang et al., ICLR 2018; usually 0.2 to 0.8) and cutmix (Yun et al., ICCV 2019: 1.0) of the clips of a batch:
# the alpha of the Beta distribution that their share comes from. 0: off. With both, each batch takes one of them.
_C.SOLVER.MIX.MIXUP_ALPHA = 0.0
_C.SOLVER.MIX.CUTMIX_ALPHA = 0.0
# Probability that a batch is mixed.
_C.SOLVER.MIX.PROB = 1.0

_C.SOLVER.AMP = CN()
_C.SOLVER.AMP.ENABLED = False
# "bfloat16" or "float16" (with a gradient scaler).
_C.SOLVER.AMP.DTYPE = "bfloat16"

_C.SOLVER.CLIP_GRADIENTS = CN()
_C.SOLVER.CLIP_GRADIENTS.ENABLED = False
# "norm" (of all gradients together) or "value".
_C.SOLVER.CLIP_GRADIENTS.TYPE = "norm"
_C.SOLVER.CLIP_GRADIENTS.MAX = 40.0

_C.SOLVER.EMA = CN()
# Keep an exponential moving average of the weights and test with it.
_C.SOLVER.EMA.ENABLED = False
_C.SOLVER.EMA.DECAY = 0.999

# Test
_C.TEST = CN()
# Views of a video: NUM_CLIPS evenly spaced clips times NUM_CROPS crops, their scores averaged (authors: 10 x 3 at 256).
# docs/testing.md has the protocols of the authors and of others in these keys.
_C.TEST.NUM_CLIPS = 10
# 1 (centre), 3 (both ends of the long side and the centre) or 10 (four corners, centre and their mirror images).
_C.TEST.NUM_CROPS = 3
_C.TEST.SHORT_SIDE = 256
# 0: the whole frame, fully convolutional (Sec. 4.1); it needs NUM_CROPS 1.
_C.TEST.CROP_SIZE = 256
# Every view also mirrored.
_C.TEST.FLIP = False
# What is averaged over the views: "softmax", the probabilities of the head (Sec. 4.1; sigmoids where MODEL.HEAD.LOSS is
# "sigmoid"), or "logits", of whose mean the probabilities are then taken.
_C.TEST.AVERAGE = "softmax"
# Save what was averaged, per view, in the results file: tools/score.py can then average it in another way. The file
# grows by the number of views.
_C.TEST.KEEP_VIEWS = False
# Views that go through the network at once: the peak of memory at test.
_C.TEST.VIEWS_PER_FORWARD = 10
# Tests, predictions, features and exports use a copy of the network whose batch norms are part of its convolutions: the
# same scores to rounding, and faster.
_C.TEST.FUSE = True
# "bfloat16" or "float16": views go through the network in mixed precision. Scores differ; docs/testing.md. "": float32.
_C.TEST.AMP = ""
# A name in CLIP_SAMPLER: "UniformClips", "AuthorsClips", "SlowFastClips", "SlowFastOffsetClips", "MMActionClips" or
# "SegmentClip".
_C.TEST.CLIP_SAMPLER = "UniformClips"
# A name in EVALUATOR. "": by MODEL.HEAD.LOSS.
_C.TEST.EVALUATOR = ""
# Iterations between evaluations while training; the last iteration always evaluates. 0: only the last.
_C.TEST.EVAL_PERIOD = 0
# With SOLVER.MAX_EPOCHS: the part of the training after which it evaluates and saves, as EVAL_PERIOD and
# SOLVER.CHECKPOINT_PERIOD. 0: it evaluates only at the end.
_C.TEST.EVAL_FRACTION = 0.0
# [[task, metric, expected, tolerance], ...]; the script exits with 1 where a result is off.
_C.TEST.EXPECTED_RESULTS = []

_C.TEST.VALIDATION = CN()
# Evaluate while training by this protocol, and by the full one, the keys above, only at the end (docs/testing.md).
_C.TEST.VALIDATION.ENABLED = False
_C.TEST.VALIDATION.NUM_CLIPS = 1
_C.TEST.VALIDATION.NUM_CROPS = 1
# At most so many videos of each dataset: always the same, evenly spread over its classes. 0: all.
_C.TEST.VALIDATION.MAX_VIDEOS = 0

_C.TEST.PRECISE_BN = CN()
# Recompute the statistics of BN from this many training batches before each checkpoint and evaluation (authors: 200).
_C.TEST.PRECISE_BN.ENABLED = False
_C.TEST.PRECISE_BN.NUM_ITERS = 200
