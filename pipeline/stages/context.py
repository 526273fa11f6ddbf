"""Hold the settings of a run, and the objects that its stages share.

context = RunContext(settings)
context.store, context.network, context.plan      # each is made, or read, on first use
context.extract(context.spec(), context.plan.tasks, "extracting demo_digits")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from distributions import HistogramAxes, Spec
from distributions.spec import difference_between, has_histogram
from extractors import ExtractorConfig, FrozenNetwork, build, check_device
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.cluster.actors import Spares
from pipeline.cluster.scheduler import Resources, Scheduler
from pipeline.config.settings import DatasetConfig, Settings
from pipeline.data.discovery import find
from pipeline.data.plan import OBSERVE, Plan, network_spec
from pipeline.data.shards import Shard, Work
from pipeline.errors import UserError
from pipeline.extraction.worker import Job, Worker
from pipeline.formats.manifests import NAME
from pipeline.formats.vdna_files import read_ranges
from pipeline.storage.disk import expand_home


class RunContext:
    """One run of a dataset through an extractor into a catalogue.

    `network` is the network of another run of the same extractor; None: the network is built on first use. `spares` are
    idle actors that runs share; None: actors are ended when their tasks are done.
    """

    def __init__(self, settings: Settings, network: FrozenNetwork | None = None, spares: Spares | None = None) -> None:
        self.settings, self._spares = settings, spares
        self._network = network
        self._plan: Plan | None = None

    @property
    def dataset(self) -> DatasetConfig:
        return self.settings.dataset

    @property
    def extractor(self) -> ExtractorConfig:
        return self.settings.extractor

    @cached_property
    def store(self) -> CatalogueWriter:
        return CatalogueWriter(self.settings.catalogue, self.settings.storage, self.settings.patience)

    @cached_property
    def scheduler(self) -> Scheduler:
        return Scheduler(self.settings.pool, self.store, self.settings.max_bad_fraction, self._spares)

    @property
    def network(self) -> FrozenNetwork:
        """The network on this machine's processor."""
        if self._network is None:
            self._network = build(self.extractor)
        return self._network

    def release(self) -> None:
        """Free the memory of the network."""
        self._network = None

    def end_spares(self) -> None:
        """End the idle actors, before work that needs their memory or that takes long."""
        if self._spares:
            self._spares.end()

    @property
    def plan(self) -> Plan:
        """The plan that this run made, or else the stored plan of the dataset. `UserError` if there is none."""
        if self._plan is None:
            self._plan = self.store.get_plan(self.dataset.name, self.extractor.name, self.dataset.storage)
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        """Use this plan from now on, even if another run of the same dataset stores another one."""
        self._plan = plan

    def shards(self, dataset: DatasetConfig) -> list[Shard]:
        """The shards of a dataset, listed now."""
        return find(
            dataset.url,
            self.settings.images_per_shard,
            dict(dataset.storage),
            self.settings.patience,
            dataset.image_key,
            dataset.image_column,
        )

    def ranges_of(self, network_id: str) -> HistogramAxes | None:
        """The histogram axes that `ranges=` selects for the network with an id.

        `ranges=` is a file, a URL, an id, "published", or "auto" for the catalogue's current axes (None if it has
        none). Raises `UserError` if there are no such axes.
        """
        ranges = self.settings.ranges
        if ranges == "auto":
            return self.store.get_ranges(network_id)
        if expand_home(ranges).is_file() or ranges.startswith(("published", "hf:", "http://", "https://")):
            return read_ranges(ranges, self.extractor.ranges)
        axes = self.store.get_ranges(network_id, ranges) if NAME.fullmatch(ranges) else None
        if axes is None:
            raise UserError(f"ranges={ranges}: neither a file nor an id this network has in the catalogue")
        return axes

    def spec(self) -> Spec:
        """The spec of the VDNA that this run makes. Raises `UserError` if histograms are wanted and axes are
        missing."""
        needed = has_histogram(self.settings.distributions)
        ranges = self.ranges_of(self.plan.network_spec.network_id) if needed else None
        if needed and ranges is None:
            raise UserError("histograms need activation ranges: add calibrate to stages=[...] or give ranges=FILE")
        return self.plan.spec(self.settings.distributions, ranges, self.settings.positions)

    def extract(self, spec: Spec, tasks: Sequence[Work], title: str) -> None:
        """Make the missing partials of tasks on actors, each with a copy of the network (see `Scheduler.run`)."""
        self.scheduler.run(spec, tasks, title, partial(self._worker, spec))

    def _worker(self, spec: Spec, resources: Resources) -> tuple[Any, ...]:
        """The class and the arguments of an actor's worker.

        Raises `UserError` if the plan was made for another network, and `ExtractorError` if the device cannot run it.
        """
        settings = self.settings
        check_device(self.extractor, resources.device)
        if network_spec(self.network).network_id != spec.network_id:
            planned = replace(spec, distributions=OBSERVE, ranges=None, positions={})
            difference = difference_between(planned, network_spec(self.network))
            raise UserError(f"the plan was made for another network ({difference}): add plan to stages=[...]")
        job = Job(
            self.extractor,
            spec,
            settings.batch_size,
            resources.threads,
            settings.decode_threads,
            resources.device,
            settings.patience,
        )
        return Worker, job, self.network.state()
