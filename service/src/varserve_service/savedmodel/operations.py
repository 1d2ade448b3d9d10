"""What TensorFlow's operations do beside computing: the one list that effects and permissions use.

A test holds it against TensorFlow's own registry: each operation that is stateful there, or takes a
path, has its kind here. One that is in neither, of a library that the operator loads, counts as a
change of state when TensorFlow calls it stateful.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """What an operation does beside computing."""

    FILES = "files"
    """It reads or writes files, by a name that its inputs or attributes give."""
    PYTHON = "python"
    """It calls Python of this process."""
    NETWORK = "network"
    """It reaches other processes or machines."""
    READS = "reads"
    """It reads a resource: a variable, a table, a queue."""
    CHANGES = "changes"
    """It changes a resource, or other state of the process."""
    NONE = "none"
    """It changes nothing that outlives a call: random numbers, data in flight, messages."""


DENIABLE = (Kind.FILES, Kind.PYTHON, Kind.NETWORK)
"""Kinds of operations that reach beyond the model itself."""

ASSETS = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
"""What fills a table from a file of the SavedModel when it is loaded."""

_FILES = frozenset(
    {
        *ASSETS,
        *("ReadFile", "WriteFile", "MatchingFiles", "MatchingFilesDataset"),
        *("ExperimentalMatchingFilesDataset", "RecordInput", "FileSystemSetConfiguration"),
        # Checkpoints. What TensorFlow itself restores by is called at load alone.
        *("Save", "SaveV2", "SaveSlices", "Restore", "RestoreV2", "RestoreSlice"),
        *("MergeV2Checkpoints", "LoadAndRemapMatrix", "GenerateVocabRemapping"),
        *("DTensorRestoreV2", "DistributedSave"),
        # Readers and datasets.
        *("WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2"),
        *("TFRecordReader", "TFRecordReaderV2", "LMDBReader"),
        *("FixedLengthRecordReader", "FixedLengthRecordReaderV2"),
        *("TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2"),
        *("FixedLengthRecordDataset", "FixedLengthRecordDatasetV2"),
        *("CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset"),
        *("LMDBDataset", "ExperimentalLMDBDataset", "SqlDataset", "ExperimentalSqlDataset"),
        *("SaveDataset", "SaveDatasetV2", "LoadDataset"),
        *("SnapshotDataset", "SnapshotDatasetV2", "SnapshotDatasetReader"),
        *("SnapshotNestedDatasetReader", "SnapshotChunkDataset", "ListSnapshotChunksDataset"),
        *("DatasetToTFRecord", "ExperimentalDatasetToTFRecord"),
        *("CacheDataset", "CacheDatasetV2"),
        # Samplers that read a vocabulary, and what writes down what it sees.
        *("Skipgram", "FixedUnigramCandidateSampler"),
        *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "DumpTensor"),
        *("DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount"),
        *("DebugNumericSummary", "CalibrationStatisticsSaver", "StoreMinibatchStatisticsInFdo"),
        "PrintV2:file",
    }
)
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_NETWORK = re.compile(
    r"Rpc\w+|DeleteRpcFutureResource|RegisterDataset(V2)?|DataServiceDataset(V\d)?|RemoteCall|"
    r"WorkerHeartbeat|_?(Send|Recv)|_Host(Send|Recv)|Collective\w+|_?Nccl\w+"
)
_READS = re.compile(
    r"ReadVariableOp|_ReadVariablesOp|ResourceGather(Nd)?|VarIsInitializedOp|VariableShape|"
    r"ReadVariableXlaSplitND|LookupTable(Find|Size|Export)(V2)?|QueueSize(V2)?|QueueIsClosed(V2)?|"
    r"Is\w*Initialized|IsResourceHandleRefCounting|ResourceInitializedOp|"
    r"ReaderNum\w+|ReaderSerializeState(V2)?|(Map|OrderedMap)(Size|IncompleteSize|Peek)|"
    r"Stage(Size|Peek)|BarrierReadySize|BarrierIncompleteSize|AccumulatorNumAccumulated|"
    r"ResourceAccumulatorNumAccumulated|IteratorGetDevice|ExperimentalIteratorGetDevice|"
    r"IteratorGetModelProto|IteratorToStringHandle|MultiDeviceIteratorToStringHandle|"
    r"SerializeIterator|GetSessionTensor|StatsAggregatorSummary|ExperimentalStatsAggregatorSummary|"
    r"BoostedTrees(GetEnsembleStates|Predict|TrainingPredict|ExampleDebugOutputs|"
    r"SerializeEnsemble|QuantileStreamResourceGetBucketBoundaries)"
)
_CHANGES = re.compile(
    # Variables, and all that optimizers do.
    r"Assign\w*VariableOp|AssignVariableXlaConcatND|Resource(Apply|SparseApply|Scatter)\w+|"
    r"ResourceStridedSliceAssign|ResourceCountUpTo|DisableCopyOnRead|DestroyResourceOp|"
    r"Assign|AssignAdd|AssignSub|Scatter(Add|Div|Max|Min|Mul|Sub|Update|NdAdd|NdSub|NdUpdate)|"
    r"Apply\w+|SparseApply\w+|CountUpTo|DestroyTemporaryVariable|RngSkip|RngReadAndSkip|"
    r"Stateful(Uniform|UniformFullInt|UniformInt|StandardNormal|StandardNormalV2|TruncatedNormal|"
    r"RandomBinomial)|ConsumeMutexLock|MutexLock|"
    # Tables, queues, accumulators, readers, maps, sessions.
    r"LookupTable(Insert|Import|Remove)(V2)?|InitializeTable\w*|"
    r"(Queue|Barrier)(Enqueue|Dequeue|Close|InsertMany|TakeMany)\w*|Reader(Read|Reset|Restore)\w*|"
    r"(Un)?[Ss]tage|StageClear|(Map|OrderedMap)(Stage|Unstage|UnstageNoKey|Clear)|"
    r"(Resource)?Accumulator(ApplyGradient|TakeGradient|SetGlobalStep)|"
    r"(Add|AddMany|TakeMany)Sparse(To|From)TensorsMap|GetSessionHandle(V2)?|DeleteSessionTensor|"
    # Iterators, which are of the caller's when they live longer than the call.
    r"Iterator(GetNext\w*|FromStringHandle\w*)|MakeIterator|DeserializeIterator|"
    r"Delete(Iterator|MemoryCache|MultiDeviceIterator|SeedGenerator|RandomSeedGenerator)|"
    r"MultiDeviceIterator(Init|GetNextFromShard|FromStringHandle)|"
    # Summaries, statistics, trees.
    r"Write\w*Summary|FlushSummaryWriter|CloseSummaryWriter|ImportEvent|StatsAggregatorSet\w+|"
    r"(Experimental)?SetStatsAggregatorDataset|BoostedTrees(CenterBias|Create|Deserialize|Flush|"
    r"MakeQuantile|Update|QuantileStreamResource(AddSummaries|Deserialize|Flush))\w*|"
    # Accelerators: all of their state is theirs.
    r"(_|Load|Retrieve|Configure|_Configure|Connect|Enqueue|DynamicEnqueue|Execute|Finalize|Recv|"
    r"Send|Shutdown|_Shutdown|Collate|Is|Stub|Update|_Initialize|_Wait|_Disconnect|_Set|DTensor)?"
    r"\w*(TPU|Tpu)\w*|(In|Out)feed\w+|_?Xla(Send|Recv|Host|Compile|Run)\w*|UpdateTaskId\w+|"
    r"ResourceCreateOp|ResourceUsingOp|NegTrain|SyncDevice"
)
_NONE = re.compile(
    # Control flow and calls: what they call counts by itself.
    r"(Stateful)?PartitionedCall|_?If|_?While|Case|RiscWhile|Xla(Launch|If|While|CallModule)|"
    r"_Arg|_Retval|_DeviceArg|_DeviceRetval|Assert|Print|PrintV2|CheckNumerics(V2)?|"
    # Random numbers.
    r"Random(Gamma|Poisson|PoissonV2|Shuffle|StandardNormal|Uniform|UniformInt|Crop)|Multinomial|"
    r"TruncatedNormal|ParameterizedTruncatedNormal|NonDeterministicInts|\w*CandidateSampler|"
    r"AllCandidateSampler|SampleDistortedBoundingBox(V2)?|StatelessRandomGetAlg|"
    # Handles and containers that begin empty.
    r"VarHandleOp|_VarHandlesOp|_XlaAotOnlyVarHandleOp|Variable|VariableV2|TemporaryVariable|"
    r"(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|(Anonymous|Dummy)\w+|"
    r"\w*Queue(V2)?|Barrier|\w*ConditionalAccumulator|\w*ReaderV?2?|Iterator(V2)?|OneShotIterator|"
    r"MultiDeviceIterator|MutexV2|SummaryWriter|\w*StatsAggregatorHandle(V2)?|"
    r"BoostedTrees\w*ResourceHandleOp|StubResourceHandleOp|MakeWeakResourceHandle|"
    r"\w*ThreadPoolHandle|Stack\w*|TensorArray\w*|_ScopedAllocator\w*|_ParallelConcatStart|"
    # Datasets, which are values; what their functions do counts by itself.
    r"\w*Dataset(V\d)?|DatasetToSingleElement|"
    # What the registry calls stateful so that it is not folded.
    r"DeepCopy|Empty|Timestamp|DeviceIndex|CudnnRNN\w*|Sleep(Op|IdentityOp)|GuaranteeConst|"
    r"GraphDefVersion|RequiresOlderGraphVersion|DtypeWithDefaultOp|TestAttr|DevicePlacementOp|"
    r"IsTensorFloat32Enabled|GlobalIterId|ConvertToCooTensor|ComputeDedupData\w+|"
    r"CrossReplicaSum|AllToAll|CollectivePermute|GetMinibatch\w+|XlaSparseCore\w+|XlaDequantize|"
    r"SparseTensorSliceDataset"
)
_PATH = re.compile(r"file|(^|_)path|prefix|directory|(^|_)(log)?dir(_|$)", re.IGNORECASE)


def kind_of(op: str) -> Kind | None:
    """What an operation of this name does; None: it is not in the list."""
    if op in _FILES:
        return Kind.FILES
    if op in _PYTHON:
        return Kind.PYTHON
    for kind, pattern in (
        (Kind.NETWORK, _NETWORK),
        (Kind.READS, _READS),
        (Kind.CHANGES, _CHANGES),
        (Kind.NONE, _NONE),
    ):
        if pattern.fullmatch(op):
            return kind
    return None


def takes_path(names: list[str]) -> bool:
    """Whether any of these names of string inputs or attributes speaks of a file."""
    return any(_PATH.search(name) for name in names)
