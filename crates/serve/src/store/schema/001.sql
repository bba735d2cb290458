-- Conversations, their messages as a tree, the notes that condense them, and the index that search uses.
-- `number` columns are the rowids that FTS5 needs; a message's number also tells the order of creation.

CREATE TABLE conversations (
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    title         TEXT NOT NULL,
    system_prompt TEXT NOT NULL,
    settings      TEXT NOT NULL,
    leaf_id       TEXT REFERENCES messages (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX conversations_by_update ON conversations (updated_at, id);
CREATE INDEX conversations_by_leaf ON conversations (leaf_id);

CREATE TABLE messages (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    -- No cascade: SQLite would follow a branch of more than 1000 messages too deep. Messages go with their conversation.
    parent_id       TEXT REFERENCES messages (id) DEFERRABLE INITIALLY DEFERRED,
    role            TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content         TEXT NOT NULL,
    status          TEXT NOT NULL
                    CHECK (status IN ('running', 'paused', 'complete', 'stopped', 'length', 'context', 'failed')),
    created_at      INTEGER NOT NULL,
    -- The token ids of an answer as generated (little-endian u32), and the fingerprint of the tokenizer they belong to.
    ids             BLOB,
    tokenizer       TEXT,
    -- JSON, or null.
    usage           TEXT,
    timing          TEXT,
    context         TEXT
) STRICT;

CREATE INDEX messages_by_conversation ON messages (conversation_id, number);
CREATE INDEX messages_by_parent ON messages (parent_id);
CREATE INDEX messages_unfinished ON messages (number) WHERE status IN ('running', 'paused');

-- What an unfinished answer has so far, a row for each appended piece. Folded into the message when it ends.
CREATE TABLE pieces (
    message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    text    TEXT NOT NULL,
    ids     BLOB NOT NULL,
    PRIMARY KEY (message, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    -- The last message that the note condenses.
    through_id      TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    text            TEXT NOT NULL,
    tokens          INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX notes_by_conversation ON notes (conversation_id, number);
CREATE INDEX notes_by_message ON notes (through_id);

-- Trigrams find a part of a word in any language, those written without spaces too.
CREATE VIRTUAL TABLE search_titles USING fts5 (
    title, content = 'conversations', content_rowid = 'number', tokenize = 'trigram remove_diacritics 1'
);
CREATE VIRTUAL TABLE search_messages USING fts5 (
    content, content = 'messages', content_rowid = 'number', tokenize = 'trigram remove_diacritics 1'
);
-- What is deleted leaves the index at once, and not when segments happen to be merged.
INSERT INTO search_titles (search_titles, rank) VALUES ('secure-delete', 1);
INSERT INTO search_messages (search_messages, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER conversations_inserted AFTER INSERT ON conversations BEGIN
    INSERT INTO search_titles (rowid, title) VALUES (new.number, new.title);
END;
CREATE TRIGGER conversations_deleted AFTER DELETE ON conversations BEGIN
    INSERT INTO search_titles (search_titles, rowid, title) VALUES ('delete', old.number, old.title);
END;
CREATE TRIGGER conversations_renamed AFTER UPDATE OF title ON conversations BEGIN
    INSERT INTO search_titles (search_titles, rowid, title) VALUES ('delete', old.number, old.title);
    INSERT INTO search_titles (rowid, title) VALUES (new.number, new.title);
END;
CREATE TRIGGER messages_inserted AFTER INSERT ON messages BEGIN
    INSERT INTO search_messages (rowid, content) VALUES (new.number, new.content);
END;
CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
    INSERT INTO search_messages (search_messages, rowid, content) VALUES ('delete', old.number, old.content);
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
    INSERT INTO search_messages (search_messages, rowid, content) VALUES ('delete', old.number, old.content);
    INSERT INTO search_messages (rowid, content) VALUES (new.number, new.content);
END;
