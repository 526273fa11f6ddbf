"""One run: its settings, and what its stages share.

context = RunContext(settings)
context.store, context.network, context.plan      # each made, or read, when it is first asked for
context.extract(context.spec(), context.plan.tasks, "extracting demo_digits")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from distributions import HistogramAxes, Spec
from distributions.spec import difference_between, has_histogram
from extractors import FrozenNetwork, build, check_device
from pipeline.catalogue.writer import Store
from pipeline.cluster.scheduler import Scheduler, Share
from pipeline.config.settings import DatasetConfig, Settings
from pipeline.data.discovery import find
from pipeline.data.plan import OBSERVE, Plan, network_spec
from pipeline.data.shards import Shard, Work
from pipeline.errors import UserError
from pipeline.extraction.worker import Job, Worker
from pipeline.formats.manifests import NAME
from pipeline.formats.vdna_files import read_ranges
from pipeline.storage.disk import named


class RunContext:
    """One run of a dataset through an extractor into a catalogue.

    `network` is one that another run of the same extractor has made; None: it is built when it is first asked for.
    """

    def __init__(self, settings: Settings, network: FrozenNetwork | None = None) -> None:
        self.settings = settings
        self._network = network
        self._plan: Plan | None = None

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.catalogue, self.settings.storage, self.settings.patience)

    @cached_property
    def scheduler(self) -> Scheduler:
        return Scheduler(self.settings.pool, self.store, self.settings.max_bad_fraction)

    @property
    def network(self) -> FrozenNetwork:
        """The network on this machine's processor."""
        if self._network is None:
            self._network = build(self.settings.extractor)
        return self._network

    def release(self) -> None:
        """Let go of the network, which takes memory."""
        self._network = None

    @property
    def plan(self) -> Plan:
        """The plan of the dataset: the one that this run made, or else the stored one."""
        if self._plan is None:
            dataset = self.settings.dataset
            self._plan = self.store.get_plan(dataset.name, self.settings.extractor.name, dataset.storage)
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        """Go on with this plan, whatever another run of the same dataset may store meanwhile."""
        self._plan = plan

    def shards(self, dataset: DatasetConfig) -> list[Shard]:
        """The shards that a dataset consists of now."""
        return find(
            dataset.url,
            self.settings.images_per_shard,
            dict(dataset.storage),
            self.settings.patience,
            dataset.image_key,
            dataset.image_column,
        )

    def ranges_of(self, network: str) -> HistogramAxes | None:
        """The histogram axes that `ranges=` means for a network: a file, an id, "published", or those in use
        (None: none yet)."""
        ranges = self.settings.ranges
        if ranges == "auto":
            return self.store.get_ranges(network)
        if named(ranges).is_file() or ranges.startswith(("published", "hf:", "http://", "https://")):
            return read_ranges(ranges, self.settings.extractor.ranges)
        found = self.store.get_ranges(network, ranges) if NAME.fullmatch(ranges) else None
        if found is None:
            raise UserError(f"ranges={ranges}: neither a file nor an id this network has in the catalogue")
        return found

    def spec(self) -> Spec:
        """The spec of the VDNA this run makes; `UserError` if histograms lack axes."""
        needed = has_histogram(self.settings.distributions)
        ranges = self.ranges_of(self.plan.network.network) if needed else None
        if needed and ranges is None:
            raise UserError("histograms need activation ranges: add calibrate to stages=[...] or give ranges=FILE")
        return self.plan.spec(self.settings.distributions, ranges, self.settings.positions)

    def extract(self, spec: Spec, tasks: Sequence[Work], title: str) -> None:
        """Have a partial of every task in the store, made by actors with the network (`Scheduler.run`)."""
        self.scheduler.run(spec, tasks, title, partial(self._worker, spec))

    def _worker(self, spec: Spec, share: Share) -> tuple[Any, ...]:
        """A worker's class and arguments; `UserError` if the plan was made for another network, `ExtractorError` if
        the device cannot do what is asked for."""
        settings = self.settings
        check_device(settings.extractor, share.device)
        if network_spec(self.network).network != spec.network:
            planned = replace(spec, distributions=OBSERVE, ranges=None, positions={})
            difference = difference_between(planned, network_spec(self.network))
            raise UserError(f"the plan was made for another network ({difference}): add plan to stages=[...]")
        job = Job(
            settings.extractor,
            spec,
            settings.batch_size,
            share.threads,
            settings.decode_threads,
            share.device,
            settings.patience,
        )
        return Worker, job, self.network.state()
