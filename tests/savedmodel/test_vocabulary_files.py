"""A table that is filled from a file of the SavedModel needs no permission to read files."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from varserve_service.savedmodel.allowed_operations import operations


def test_only_loading_reads_the_vocabulary(tmp_path: Path) -> None:
    """What fills the table when it is loaded does not count, also where its trace is saved."""
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
    )
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(initializer, 1)
    module.look = tf.function(
        lambda words: module.table.lookup(words),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "m"))
    found = operations("m", tmp_path / "m")
    assert "LookupTableFindV2" in found
    assert "InitializeTableFromTextFileV2" not in found
