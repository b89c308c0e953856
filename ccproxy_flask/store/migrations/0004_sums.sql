-- What analytics need, by time (store/sums.py), whatever place the rows are in: kept when rows come, in
-- the same transaction. Sums by file, which were there before, go; a file is added in the background.
DROP TABLE part_cells;
DROP TABLE part_name_bins;
DROP TABLE part_time_bins;
ALTER TABLE parts ADD COLUMN summed BOOLEAN;

-- The rows of generations up to *summed_to* are in the sums. Rows of an older version have none: they
-- are in the sums once they are in a file.
ALTER TABLE recent_logs ADD COLUMN generation BIGINT;
CREATE TABLE sum_state (summed_to BIGINT NOT NULL);
INSERT INTO sum_state VALUES (0);
