-- The index: a view of the journal that can be deleted at any time. Times are microseconds since 1970 UTC.
-- A row is visible once the record that opens it has been seen (at_us is set); until then it holds the
-- place of something another shard has spoken of. Places (shard, segment, offset) point into the journal,
-- from which arguments, results and everything not filtered by are read.

CREATE TABLE watermarks (
  shard INTEGER PRIMARY KEY,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  last_segment INTEGER NOT NULL,
  last_offset INTEGER NOT NULL,
  last_check INTEGER NOT NULL
);

-- Text that repeats. The first are the outcomes, with fixed numbers: `running` is 0.
CREATE TABLE words (
  id INTEGER PRIMARY KEY,
  word TEXT NOT NULL UNIQUE
);

CREATE TABLE runs (
  row INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  name TEXT,
  agent INTEGER,
  caller INTEGER,
  channel INTEGER,
  session INTEGER,
  workspace INTEGER,
  parent_id BLOB,
  outcome INTEGER NOT NULL,
  at_us INTEGER,
  elapsed_us INTEGER,
  reason INTEGER,
  passed INTEGER,
  external_id TEXT,
  first_shard INTEGER,
  first_segment INTEGER,
  first_offset INTEGER,
  finished_shard INTEGER,
  finished_segment INTEGER,
  finished_offset INTEGER
);

-- agent, caller, session and workspace are the call's own or, where `inherits` has their bit, its run's.
-- error is the pattern of what went wrong, the same for calls that failed alike.
CREATE TABLE calls (
  row INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  run INTEGER,
  position INTEGER,
  tool INTEGER,
  effect INTEGER,
  door INTEGER,
  agent INTEGER,
  caller INTEGER,
  session INTEGER,
  workspace INTEGER,
  inherits INTEGER NOT NULL,
  parent_id BLOB,
  external_id TEXT,
  dry_run INTEGER,
  outcome INTEGER NOT NULL,
  at_us INTEGER,
  elapsed_us INTEGER,
  latency_us INTEGER,
  step_id BLOB,
  passed INTEGER,
  error INTEGER,
  proposal_id TEXT,
  action_id TEXT,
  attempt INTEGER,
  connection INTEGER,
  first_shard INTEGER,
  first_segment INTEGER,
  first_offset INTEGER,
  answered_shard INTEGER,
  answered_segment INTEGER,
  answered_offset INTEGER,
  started_shard INTEGER,
  started_segment INTEGER,
  started_offset INTEGER,
  finished_shard INTEGER,
  finished_segment INTEGER,
  finished_offset INTEGER
);

-- agent is the step's own; NULL: its run's.
CREATE TABLE steps (
  row INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  run INTEGER NOT NULL,
  position INTEGER,
  iteration INTEGER,
  agent INTEGER,
  model INTEGER,
  requested_model INTEGER,
  finish_reason INTEGER,
  responded INTEGER NOT NULL,
  parent_id BLOB,
  external_id TEXT,
  since_previous_us INTEGER,
  model_us INTEGER,
  input_tokens INTEGER,
  output_tokens INTEGER,
  reasoning_tokens INTEGER,
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  cost_nano_usd INTEGER,
  at_us INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL
);

CREATE TABLE events (
  row INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,
  name INTEGER NOT NULL,
  run INTEGER,
  call_id BLOB,
  at_us INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL
);

-- What a person is asked: which calls may use a yes to it. The answer and its use are records of the call.
CREATE TABLE questions (
  call_id BLOB PRIMARY KEY,
  digest BLOB NOT NULL,
  at_us INTEGER NOT NULL,
  open_until_us INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL
) WITHOUT ROWID;

-- Changes of commands that are held, or were, and the call that committed or discarded them.
CREATE TABLE held (
  call_id BLOB PRIMARY KEY,
  settled TEXT,
  settled_by BLOB
) WITHOUT ROWID;

-- Full text by the row of the call or run; the text itself stays in the journal.
CREATE VIRTUAL TABLE call_text USING fts5(text, content='', contentless_delete=1);
CREATE VIRTUAL TABLE run_text USING fts5(text, content='', contentless_delete=1);

-- First and last time within each block of rows (see SPAN_ROWS): lets a search for a frequent word begin
-- with the newest rows.
CREATE TABLE call_spans (block INTEGER PRIMARY KEY, low_us INTEGER NOT NULL, high_us INTEGER NOT NULL);
CREATE TABLE run_spans (block INTEGER PRIMARY KEY, low_us INTEGER NOT NULL, high_us INTEGER NOT NULL);
