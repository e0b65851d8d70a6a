"""Tasks: how classes are split, and that what is served is what the stream says."""

import pytest
import torch

from datamodules import Digits
from datamodules.tasks import TaskStream, split_classes, tasks_of

SEED = 5


@pytest.mark.parametrize(
    ("num_classes", "tasks", "base", "classes"),
    [
        (10, 5, None, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
        (10, 3, None, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]),  # the first get one more
        (10, 3, 5, [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]),
        (10, 1, None, [list(range(10))]),
        (7, 2, 5, [[0, 1, 2, 3, 4], [5, 6]]),
        (4, 1, 4, [[0, 1, 2, 3]]),
    ],
)
def test_classes_come_in_order_and_none_is_dropped(num_classes, tasks, base, classes):
    assert split_classes(num_classes, tasks, base) == classes


@pytest.mark.parametrize(("tasks", "base"), [(2, None), (7, None), (11, 50), (3, 9)])
def test_a_seeded_order_is_a_permutation_of_the_classes(tasks, base):
    one, again = (split_classes(100, tasks, base, seed) for seed in (1, 1))
    other = split_classes(100, tasks, base, 2)
    assert one == again != other
    for split in (one, other):
        assert sorted(label for group in split for label in group) == list(range(100))
        assert [len(group) for group in split] == [
            len(group) for group in split_classes(100, tasks, base)
        ]


@pytest.mark.parametrize(
    ("num_classes", "tasks", "base", "said"),
    [
        (10, 6, None, r"needs 2 .*got 2, 2, 2, 2, 1, 1 of 10 classes with `--.*Take 5 tasks or f"),
        (10, 4, 6, r"got 6, 2, 1, 1 of 10 .*tasks` 4 and `--continual\.base_classes` 6\. Pass `-"),
        (10, 2, 1, r"got 1, 9 of 10"),
        (10, 2, 10, r"got 10, 0 of 10 .* Pass `--continual\.base_classes` 8 or less\."),
        (10, 5, 11, r"got 11 in the first of 10 .* Pass `--continual\.base_classes` 2 or less\."),
        (10, 9, 3, r"got 3, 1, 1, 1, 1, 1, 1, 1, 0 of 10 .*Take 5 tasks or fewer\."),
        (3, 2, None, r"got 2, 1 of 3 classes .*Leave `--continual\.tasks` out\."),
        (10, 1, 8, r"got 8 of 10"),  # two classes would be dropped
    ],
)
def test_a_task_of_one_class_is_refused(num_classes, tasks, base, said):
    with pytest.raises(ValueError, match=said):
        split_classes(num_classes, tasks, base)


def test_tasks_of_labels_by_hand():
    labels = torch.tensor([4, 0, 2, 2, 1])
    assert tasks_of(labels, [[2, 4], [0, 1]]).tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match=r"class must be in a task, got 0, 4, which none of the 2"):
        tasks_of(labels, [[2], [1]])


LABELS = torch.tensor([0, 1, 0, 1, 0, 2, 3, 2, 3, 3, 4, 5, 4, 5])
MEMBERS = torch.tensor([1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1]).bool()
CLASSES = [[0, 1], [2, 3], [4, 5]]


def stream(**further):
    return TaskStream(tasks_of(LABELS, CLASSES), LABELS, [2, 3, 5], SEED, **further)


def test_epochs_serve_the_members_of_their_task_by_hand():
    served = [stream().served(MEMBERS, epoch).tolist() for epoch in range(5)]
    assert served == [[0, 1, 2, 4], [0, 1, 2, 4], [5, 6, 8, 9], [10, 12, 13], [10, 12, 13]]
    joint = [stream(joint=True).served(MEMBERS, epoch).tolist() for epoch in (0, 2, 4)]
    assert joint == [[0, 1, 2, 4], [0, 1, 2, 4, 5, 6, 8, 9], [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13]]


def test_exemplars_are_members_of_earlier_classes_and_stay_the_same():
    replay = stream(replay=2)
    kept = [
        set(replay.exemplars(MEMBERS, stage).nonzero().flatten().tolist()) for stage in (0, 1, 2)
    ]
    assert kept[0] < kept[1] < kept[2]
    assert kept[2] <= set(MEMBERS.nonzero().flatten().tolist())
    counts = [sum(LABELS[index] == label for index in kept[2]) for label in range(6)]
    assert counts == [2, 1, 1, 2, 2, 1]  # a class has 3, 1, 1, 3, 2 and 1 members
    own = {5, 6, 8, 9}, {10, 12, 13}
    for epoch, stage in ((2, 1), (3, 2), (4, 2)):
        served = set(replay.served(MEMBERS, epoch).tolist())
        assert served == own[stage - 1] | kept[stage - 1]
    assert replay.served(MEMBERS, 1).tolist() == [0, 1, 2, 4]
    other = replay._replace(seed=6).exemplars(MEMBERS, 2)
    more = [replay._replace(seed=seed).exemplars(MEMBERS, 2) for seed in range(9)]
    assert any(not torch.equal(other, one) for one in more)


@pytest.fixture
def data():
    """Digits with crops, assigned to five tasks of two epochs, replay and a plain end."""
    data = Digits(pool_size=200, batch_size=16, crop=1)
    data.setup("fit")
    members = torch.arange(200) % 2 == 0
    classes = split_classes(10, 5)
    labels = data.pool.labels
    tasks = TaskStream(tasks_of(labels, classes), labels, [2, 4, 6, 8, 10], SEED, plain_from=8)
    data.assign(members, SEED, tasks=tasks)
    return data, members, tasks


def test_what_is_served_is_what_the_stream_says(data, in_process):
    data, members, tasks = data
    for epoch in range(10):
        data.trainer = in_process(0, 1, epoch)
        (lesson,) = data.train_dataloader()
        batches = list(lesson.batches)
        indices = torch.cat([batch.indices for batch in batches])
        own = (members & (tasks.task == epoch // 2)).nonzero().flatten()
        assert torch.equal(indices.sort().values, own)
        assert torch.equal(indices, own) == (epoch >= 8)  # in order, or shuffled
        assert lesson.examples == len(own)
        assert [len(batch.labels) for batch in batches] == data.batch_sizes(len(own), 1)
        assert torch.equal(
            torch.cat([batch.labels for batch in batches]), data.pool.labels[indices]
        )
        images = torch.cat([batch.images for batch in batches])
        plain = torch.cat([batch.images for batch in data.pool_batches("identity")])[indices]
        assert torch.equal(images, plain) == (epoch >= 8)  # augmented only before


def test_served_needs_tasks():
    data = Digits(pool_size=20)
    data.setup("fit")
    data.assign(torch.arange(20) < 10, 0)
    with pytest.raises(RuntimeError, match="Call `assign` with `tasks` first"):
        data.served(0)
