import java.sql.*;

public class JDBCDriver {
    static void check(boolean b) { if (!b) throw new RuntimeException("assertion failed"); }
    public static void main(String[] args) throws Exception {
        try (Connection c = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + args[0] + "/postgres?sslmode=disable", "postgres", "")) {
            try (PreparedStatement s = c.prepareStatement("insert into t values (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int i = 0; i < 10; i++) { s.setInt(1, i); s.setString(2, "x"); check(s.executeUpdate() == 1); check(s.getGeneratedKeys().next()); }
            }
            c.setAutoCommit(false);
            try (PreparedStatement s = c.prepareStatement("update t set v = ? where id = ?")) {
                for (int i = 0; i < 20; i++) { s.setString(1, "y"); s.setInt(2, i); s.addBatch(); if (i % 7 == 6) { s.executeBatch(); c.commit(); } }
                s.executeBatch();
            }
            Savepoint p = c.setSavepoint();
            try (Statement s = c.createStatement()) { s.executeUpdate("insert into t values (1, 'dup')"); check(false); } catch (SQLException e) { check(e.getSQLState().equals("23505")); c.rollback(p); }
            c.commit();
            try (Statement s = c.createStatement()) {
                s.setFetchSize(100);
                int n = 0;
                try (ResultSet r = s.executeQuery("select * from generate_series(1, 5000)")) { while (r.next()) n++; }
                check(n == 5000);
                s.execute("create table j (a int)");
                c.commit();
                s.execute("drop table j");
                c.rollback();
                s.execute("drop table j; select 1");
                c.commit();
            }
            c.setReadOnly(true);
            try (Statement s = c.createStatement()) { s.executeUpdate("delete from t"); check(false); } catch (SQLException e) { check(e.getSQLState().equals("25006")); c.rollback(); }
            c.setReadOnly(false);
            c.setAutoCommit(true);
            try (Statement s = c.createStatement()) { check(s.executeUpdate("delete from t where v = 'y'") == 10); s.execute("create database jd"); s.execute("drop database jd"); s.execute("vacuum t"); }
            check(new org.postgresql.copy.CopyManager((org.postgresql.core.BaseConnection) c).copyIn("copy t from stdin", new java.io.StringReader("1\ta\n2\tb\n")) == 2);
        }
        System.out.println("ok");
    }
}
