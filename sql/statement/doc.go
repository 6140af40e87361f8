// Package statement tells SQL statements apart: where each one of a string begins and ends, and what it means for a
// session that must turn every writing commit into a distributed one.
//
// It reads tokens only, by PostgreSQL's own lexer (pg_query_go, Scan). It never runs PostgreSQL's parser on a client's
// text: that one recurses, and a deep expression would end the process. So what it says is a good guess with a safe
// side: a Read may turn out to write (PostgreSQL, under default_transaction_read_only, then refuses it with 25006),
// and what the lexer refuses is Unknown, which the caller must run alone and as if it wrote.
//
// What Cache gives is shared and must not be changed, but for the counters that have methods.
package statement
